"""The server as a container runs it: the code folder alone, a port, SIGTERM."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.models import AREAS, ROW, save_regression
from sf_sagemaker.containers.serving import serving_files
from sf_sagemaker.containers.serving.application import VERSION_HEADER
from waiting import wait_until

pytestmark = pytest.mark.slow

BODY = json.dumps({"instances": [ROW]}).encode()
HEADERS = {"Content-Type": "application/json"}


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ping(self) -> bool:
        connection = self.connect()
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def start(code: Path, model: Path) -> Running:
    entry_point, files = serving_files("xgboost")
    for name, source in files.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(source.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(code / entry_point), "serve"],
        env={
            "PATH": os.environ["PATH"],
            "SM_MODEL_DIR": str(model),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SF_SAGEMAKER_MODEL_VERSION": "7/job-7",
        },
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
    )
    return Running(process, port)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = start(tmp_path / "code", save_regression(tmp_path / "model"))

    def answers() -> bool:
        assert made.process.poll() is None
        return made.ping()

    wait_until(answers)
    yield made
    made.process.kill()
    made.process.wait()


def test_the_code_folder_alone_answers(running: Running) -> None:
    connection = running.connect()
    connection.request("POST", "/invocations", BODY, HEADERS)
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader(VERSION_HEADER) == "7/job-7"
    assert json.loads(response.read())["predictions"][0]["prediction"] > 0
    connection.close()


def test_requests_that_are_under_way_are_answered_after_sigterm(running: Running) -> None:
    idle, kept = running.connect(), running.connect()
    for connection in (idle, kept):
        connection.request("POST", "/invocations", BODY, HEADERS)
        assert connection.getresponse().read()
    large = json.dumps({"instances": [ROW | {"area": AREAS[i % 3]} for i in range(60_000)]})
    found: list[int] = []

    def ask() -> None:
        connection = running.connect()
        connection.request("POST", "/invocations", large, HEADERS)
        response = connection.getresponse()
        found.append(len(json.loads(response.read())["predictions"]))

    under_way = threading.Thread(target=ask)
    under_way.start()
    time.sleep(0.1)
    running.process.send_signal(signal.SIGTERM)
    # A connection that was open is answered until the server has noticed, and then once more.
    deadline, closing = time.monotonic() + 15, None
    while closing is None:
        assert time.monotonic() < deadline
        kept.request("POST", "/invocations", BODY, HEADERS)
        response = kept.getresponse()
        assert response.status == 200
        assert response.read()
        closing = response.getheader("Connection")
    assert closing == "close"
    under_way.join(30)
    assert found == [60_000]
    # Nobody comes in any more, and the idle connection doesn't keep it.
    assert running.process.wait(20) in (0, -signal.SIGTERM)
    assert not running.ping()
    idle.close()


def test_a_model_that_isnt_one_ends_it_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made = start(tmp_path / "code", tmp_path / "model")
    _, error = made.process.communicate(timeout=30)
    assert made.process.returncode == 1
    assert "InvalidModelCard" in error
    assert "model-card.json is missing" in error
    assert "Traceback" not in error
