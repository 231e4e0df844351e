"""A language model fine-tuned on SageMaker, from a base in S3 to a model that answers here.

The jobs really train, on the CPU; the instances with GPUs are there in the requests alone.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import re
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from containers.llm.conftest import REPORTS, WORDS, examples_of
from containers.training_container import Container
from sf_sagemaker.aws import Aws
from sf_sagemaker.containers import program_files
from sf_sagemaker.containers.llm.base_model import BaseModelMismatch, BaseModelMissing
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.training.errors import TrainingJobFailed, TrainingJobStopped
from sf_sagemaker.training.job import Limits, Program, TrainingJob, dataset_channels
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.training.run import TRAINING, JobResult, run_job
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from standins.sagemaker.service import SageMakerService
from tiny_language_model import make_tiny_language_model
from waiting import wait_until

if find_spec("torch") is None:  # installed without the extra llm
    pytest.skip("needs the extra llm", allow_module_level=True)

pytestmark = pytest.mark.slow

PACING = Pacing(poll=0.2, longest_poll=0.4, settle=0.6, retry=0.1)
DATASET = "datasets/incident_triage/1996-12-01"
TOKEN = "hf_canaryOfTheHub7c1f0b6a"


@pytest.fixture(scope="module")
def aws(shared_service: SageMakerService) -> Iterator[Aws]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**shared_service.environment, "HF_TOKEN": TOKEN}.items():
            patch.setenv(name, value)
        yield Aws(attempts=1)


@pytest.fixture(scope="module")
def storage(
    shared_service: SageMakerService, aws: Aws, tmp_path_factory: pytest.TempPathFactory
) -> S3Storage:
    """A bucket with a dataset of reports, and with a tiny base under `base-models/tiny`."""
    storage = S3Storage(aws, shared_service.create_bucket("models-of-the-team"), "project")
    table = pq.read_table(REPORTS)
    table = examples_of(table.filter(table["effect"].is_valid()).sort_by("incident_date"))
    folder = tmp_path_factory.mktemp("dataset")
    container = Container(folder, folder)
    container.write(
        {
            "train": [table.slice(900, 160)],
            "validation": [table.slice(1140, 24)],
            "test": [table.slice(1300, 24)],
        },
        target="completion",
        kind="class",
        classes=["?"],
    )
    for split in ("train", "validation", "test"):
        upload(storage, container.data(split), f"{DATASET}/{split}")
    manifest = container.data("manifest") / "manifest.json"
    storage.create(f"{DATASET}/manifest.json", manifest.read_bytes())
    texts = table.slice(900, 160)["prompt"].to_pylist() + [f" {w}" for w in WORDS.values()] * 20
    tiny = make_tiny_language_model(tmp_path_factory.mktemp("base") / "tiny", texts)
    upload(storage, tiny, "base-models/tiny")
    return storage


def upload(storage: S3Storage, folder: Path, key: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.create(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@dataclass
class Tunings:
    """Fine-tunings on the stand-in, and what was heard of them."""

    service: SageMakerService
    platform: SageMakerTrainingPlatform
    environment: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def job(self, base: str, limits: Limits, **hyperparameters: object) -> TrainingJob:
        given = self.platform.base_model(base, limits, accept_eula=False)
        values: Mapping[str, object] = {
            "base_model": given.name,
            "epochs": 2,
            "learning_rate": 0.02,
            **hyperparameters,
        }
        return TrainingJob(
            model=f"triage_{uuid.uuid4().hex[:6]}",
            partition="1996-12-01",
            program=Program(*program_files("llm")),
            image=self.platform.image("llm", limits.instance_type),
            dataset_fingerprint="abc",
            channels=dataset_channels(DATASET),
            hyperparameters={name: str(value) for name, value in values.items()},
            seed=1,
            limits=limits,
            external=(given.channel,) if given.channel else (),
        )

    def run(self, job: TrainingJob) -> JobResult:
        self.lines.clear()
        return run_job(
            job,
            self.platform,
            TRAINING,
            open_messages=_Environment(self.environment),
            on_log=lambda line: self.lines.append(line.text),
        )

    def wait_for_line(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in list(self.lines)), 120)


class _Environment:
    """What `open_messages` wants: a context around a job that gives variables to it."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def __call__(self, name: str) -> "_Environment":
        return self

    def __enter__(self) -> dict[str, str]:
        return self._variables

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def tunings(service: SageMakerService, aws: Aws, storage: S3Storage, tmp_path: Path) -> Tunings:
    platform = SageMakerTrainingPlatform(aws, storage, service.role_arn, pacing=PACING)
    return Tunings(service, platform, {"SF_SAGEMAKER_CACHE": str(tmp_path / "in-the-container")})


def test_two_processes_train_from_a_base_in_s3_without_a_network(
    tunings: Tunings,
    storage: S3Storage,
    service: SageMakerService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(instance_type="ml.g5.12xlarge", network_isolation=True)
    job = tunings.job(storage.uri("base-models/tiny"), limits)
    tunings.environment["SM_NUM_GPUS"] = "2"  # four real ones, on such an instance
    result = tunings.run(job)
    assert not result.adopted
    assert "training on 2 x cpu in float32" in tunings.lines
    progress = [line for line in tunings.lines if re.match(r"\[\d+/40\] train-loss=", line)]
    assert progress[-1].startswith("[40/40]")
    assert len(progress) == len(set(progress)) >= 10

    (call,) = service.calls.of("CreateTrainingJob")
    request = call.parameters
    assert request["ResourceConfig"]["InstanceType"] == "ml.g5.12xlarge"
    assert request["ResourceConfig"]["InstanceCount"] == 1
    assert request["EnableNetworkIsolation"] is True
    image = request["AlgorithmSpecification"]["TrainingImage"]
    assert "/huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312" in image
    channels = {one["ChannelName"] for one in request["InputDataConfig"]}
    assert channels == {"train", "validation", "test", "manifest", "base_model", "code"}
    assert not service.find(TOKEN)

    again = tunings.run(job)
    assert (again.name, again.adopted) == (result.name, True)

    # The model answers in the caller's process, on the base that is fetched there once.
    from sf_sagemaker.containers.llm.model import load_model

    monkeypatch.setenv("SF_SAGEMAKER_CACHE", str(tmp_path / "cache"))
    artifact = tunings.platform.fetch_artifact(result.name, tmp_path)
    service.calls.clear()
    model = load_model(artifact)
    assert model.card.base_model["name"] == storage.uri("base-models/tiny")
    assert model.card.metrics["test"]["completion_loss"] < 4
    assert set(model.predict(["Phase: climb. Remark: retd. Effect:"])) < set(model.card.answers)
    fetched = service.calls.counts()["s3:GetObject"]
    assert fetched == len(list(storage.list("base-models/tiny")))
    load_model(artifact)
    assert service.calls.counts()["s3:GetObject"] == fetched
    (weights,) = (tmp_path / "cache").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    load_model(artifact)
    assert service.calls.counts()["s3:GetObject"] == 2 * fetched

    service.faults.deny("ListObjectsV2", times=1)
    with pytest.raises(BaseModelMissing, match=r"can't be read from here.*s3:GetObject"):
        load_model(artifact)
    # Another base at that address is another job, and no base of this model.
    config = storage.read("base-models/tiny/config.json").replace(b"1e-06", b"1e-05")
    where = {"Bucket": storage.bucket, "Key": "project/base-models/tiny/config.json"}
    before = service.client("s3").get_object(**where)["Body"].read()
    service.client("s3").put_object(**where, Body=config)
    try:
        changed = tunings.job(storage.uri("base-models/tiny"), limits)
        assert replace(changed, model=job.model).digest != job.digest
        with pytest.raises(BaseModelMismatch, match="an adapter fits its own base only"):
            load_model(artifact)
    finally:
        service.client("s3").put_object(**where, Body=before)


def test_a_tuning_survives_spot_interruptions_and_a_stop(
    tunings: Tunings, storage: S3Storage, service: SageMakerService
) -> None:
    service.settings.restart_seconds = 0.3
    limits = Limits(instance_type="ml.g6e.xlarge", spot=True, max_runtime=timedelta(hours=2))
    job = tunings.job(storage.uri("base-models/tiny"), limits, epochs=30)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(tunings.run, job)
        tunings.wait_for_line("[60/600]")
        service.jobs.interrupt(job.name(1))
        tunings.wait_for_line("resuming after step ")
        steps = [int(s) for s in re.findall(r"resuming after step (\d+)", "\n".join(tunings.lines))]
        assert len(steps) == 1
        assert steps[0] >= 60
        tunings.wait_for_line(f"[{30 * (steps[0] // 30 + 2)}/600]")
        tunings.platform.stop(job.name(1))
        with pytest.raises(TrainingJobStopped):
            running.result(120)
    # Another run makes another attempt, which goes on from there.
    result = tunings.run(job)
    assert (result.name, result.attempt) == (job.name(2), 2)
    resumed = re.search(r"resuming after step (\d+)", "\n".join(tunings.lines))
    assert resumed is not None
    assert int(resumed[1]) > steps[0]
    assert tunings.platform.describe(result.name).spot


def test_why_a_tuning_failed_is_told(
    tunings: Tunings, storage: S3Storage, service: SageMakerService
) -> None:
    broken = "base-models/broken"
    for key in list(storage.list("base-models/tiny")):
        content = storage.read(key)
        name = key.rpartition("/")[2]
        half = content[: len(content) // 2] if name == "model.safetensors" else content
        storage.create(f"{broken}/{name}", half)
    job = tunings.job(storage.uri(broken), Limits(instance_type="ml.g5.xlarge"))
    with pytest.raises(TrainingJobFailed, match=r"AlgorithmError: the base model .*broken.* can't"):
        tunings.run(job)
