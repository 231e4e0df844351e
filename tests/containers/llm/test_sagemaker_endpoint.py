"""A fine-tuned language model behind a SageMaker endpoint, as the Hugging Face image serves it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.sagemaker_site import BUCKET, PREFIX, ServingSite, options, serving_site
from sf_sagemaker.containers.serving.golden import golden_request
from sf_sagemaker.serving.endpoint import ServedModel
from standins.sagemaker.serving_container import ContainerSurroundings, ServingContainer
from standins.sagemaker.watchdog import Watchdog
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROMPT = "Phase: climb. Remark: bird went into the engine. Effect:"
READY_SECONDS = 90


@pytest.fixture(scope="module")
def site(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingSite]:
    artifacts = tmp_path_factory.mktemp("artifacts")
    shutil.copytree(trained, artifacts / "good")
    bad = Path(shutil.copytree(trained, artifacts / "bad"))
    card = json.loads((bad / "model-card.json").read_text())
    card["golden_rows"][0]["loss"] += 3
    (bad / "model-card.json").write_text(json.dumps(card))
    with serving_site(artifacts) as made:
        yield made


def model(job: str) -> ServedModel:
    return ServedModel("triage", 3, job, f"s3://{BUCKET}/{PREFIX}/training-jobs/{job}", "llm")


def test_it_answers_as_the_local_endpoint_does(site: ServingSite, trained: Path) -> None:
    deployed = site.host.deploy("triage", model("good"), options())
    assert deployed.description.version == "3/good"
    container = site.service.models.all()[-1].request["PrimaryContainer"]
    assert "/huggingface-pytorch-inference:" in container["Image"]
    assert container["Environment"]["SAGEMAKER_MODEL_SERVER_WORKERS"] == "1"
    golden = golden_request(trained)
    assert golden is not None
    reply = site.host.invoke("triage", golden.body)
    assert reply.status == 200, reply
    assert reply.version == "3/good"
    assert golden.difference(reply.body) is None
    refused = site.host.invoke("triage", json.dumps({"instances": [{"prompt": 5}]}).encode())
    assert refused.status == 400
    assert "'prompt' is 5: expected a text" in json.loads(refused.body)["error"]
    other = site.host.invoke("triage", PROMPT.encode(), content_type="text/csv")
    assert other.status == 415
    # What one request was refused with is not the next one's.
    body = json.dumps({"instances": [{"prompt": PROMPT}]}).encode()
    assert site.host.invoke("triage", body).status == 200


def test_a_model_that_fails_its_golden_rows_ends_its_server(
    site: ServingSite, tmp_path: Path
) -> None:
    """The server itself answers pings all the while."""
    definition = site.models.container(model("bad")).definition()
    watchdog = Watchdog(tmp_path / "watched")
    container = ServingContainer(
        definition,
        ContainerSurroundings(
            folder=tmp_path / "containers",
            endpoint_url=site.service.endpoint_url,
            region=site.service.region,
            s3=site.service.client("s3"),
            watchdog=watchdog,
            write=lambda line: None,
        ),
    )
    try:
        container.start()
        wait_until(lambda: container.exited, READY_SECONDS, told=lambda: container.lines)
        assert not container.ping()
        assert any("GoldenRowMismatch" in line for line in container.lines), container.lines
    finally:
        container.close(0)
        watchdog.close()
