"""Ten thousand requests while the champion changes ten times: none fails, none is answered wrongly."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import pytest

from serving.models import ROW, Artifacts
from sf_sagemaker.containers.serving.application import VERSION_HEADER
from sf_sagemaker.lifecycle.champions import Champion, champion_model, promote, read_champions
from sf_sagemaker.lifecycle.registry import RegisteredModel, register_model
from sf_sagemaker.serving.endpoint import EndpointOptions, ServedModel
from sf_sagemaker.serving.local import LocalEndpointHost
from sf_sagemaker.storage import LocalStorage

pytestmark = pytest.mark.slow

CHANGES = 10
REQUESTS = 10_000
CLIENTS = 16
BODY = json.dumps({"instances": [ROW]}).encode()


@dataclass(frozen=True)
class Answered:
    """A request's start and end, and what came of it."""

    started: float
    ended: float
    status: int
    version: str | None
    body: bytes


@dataclass(frozen=True)
class Reign:
    """When a version became champion, and when the endpoint had followed."""

    version: str
    promoted: float
    followed: float


def test_no_request_fails_while_champions_change(
    host: LocalEndpointHost, artifacts: Artifacts, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path / "storage")
    for number in range(CHANGES + 1):
        _train(storage, artifacts, number)
    reigns = [_change(storage, host, 0)]
    address = host.describe("houses").address
    assert address is not None
    done = Event()
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(_ask, address, done) for _ in range(CLIENTS)]
        try:
            for number in range(1, CHANGES + 1):
                reigns.append(_change(storage, host, number))
        finally:
            done.set()
        answers = [answer for future in running for answer in future.result()]

    assert len(answers) >= REQUESTS
    assert {answer.status for answer in answers} == {200}
    assert {answer.version for answer in answers} == {reign.version for reign in reigns}
    # One version, one price: the answer is the model's that the header names.
    assert len({(answer.version, answer.body) for answer in answers}) == CHANGES + 1
    for before, after in zip(reigns, [*reigns[1:], None], strict=True):
        for answer in answers:
            if answer.version == before.version:
                assert answer.ended >= before.promoted
                assert after is None or answer.started <= after.followed


def _train(storage: LocalStorage, artifacts: Artifacts, number: int) -> None:
    artifacts.add(f"job-{number}", level=number / 10)
    register_model(
        storage,
        RegisteredModel(
            model="houses",
            partition=_week(number),
            training_job=f"job-{number}",
            artifact_uri=f"file:///job-{number}/model.tar.gz",
            trained_at=datetime.now(UTC).isoformat(),
            dataset=f"datasets/houses/{number}",
            dataset_fingerprint=str(number),
            spec_digest="0",
            target="price",
            target_kind="positive",
            split="0",
            features=(("rooms", "numeric"),),
            warm_up=False,
        ),
    )


def _change(storage: LocalStorage, host: LocalEndpointHost, number: int) -> Reign:
    """A promotion, and the endpoint that follows it."""
    promoted = time.monotonic()
    promote(
        storage,
        Champion(
            version=number + 1,
            model="houses",
            partition=_week(number),
            training_job=f"job-{number}",
            in_force_from=_week(number + 1),
            promoted_at=datetime.now(UTC).isoformat(),
            kind="promotion" if number else "first",
            reason="it is newer",
            figures={},
        ),
    )
    champion = read_champions(storage, "houses")[-1]
    uri = champion_model(storage, champion).artifact_uri
    model = ServedModel("houses", champion.version, champion.training_job, uri, "xgboost")
    assert host.deploy("houses", model, EndpointOptions()).changed
    return Reign(model.label, promoted, time.monotonic())


def _ask(address: str, done: Event) -> list[Answered]:
    """One client on one connection, which it opens again where the server closes it."""
    answers: list[Answered] = []
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    while not done.is_set() or len(answers) < REQUESTS / CLIENTS:
        started = time.monotonic()
        connection.request("POST", "/invocations", BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        answers.append(
            Answered(
                started, time.monotonic(), response.status, response.getheader(VERSION_HEADER), body
            )
        )
        time.sleep(0.02)  # leaves the processor to what is started meanwhile
    connection.close()
    return answers


def _week(number: int) -> str:
    return f"{date(2024, 1, 1) + timedelta(weeks=number)}"
