"""The sensor that stops jobs which nobody can want any more, and leaves all others alone."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.components.orphaned_jobs import orphaned_jobs_sensor
from sf_sagemaker.lifecycle.registry import RegisteredModel, register_model
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.batch import TransformOptions
from sf_sagemaker.serving.batch_files import Export, Part
from sf_sagemaker.serving.sagemaker_transform import SageMakerTransforms, TransformJob
from sf_sagemaker.training.holding import job_tag
from sf_sagemaker.training.job import RUN_TAG, Limits, Program, TrainingJob
from sf_sagemaker.training.platform import JobStatus, Pacing
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from sf_sagemaker.training.unavailable import UnavailablePlatform
from standins.sagemaker.service import SageMakerService
from waiting import wait_until

WEEK = "2015-04-27"
RETRIES = {"dagster/will_retry": "true"}

Status = dg.DagsterRunStatus


@dg.job
def any_job() -> None:
    pass


class Site:
    """A deployment with runs that hold jobs, and the sensor that looks at them."""

    def __init__(
        self,
        service: SageMakerService,
        aws: Aws,
        instance: dg.DagsterInstance,
        folder: Path,
    ) -> None:
        unique = uuid.uuid4().hex[:8]
        self.service = service
        self.instance = instance
        self.folder = folder
        self.model = f"m_{unique}"
        self.storage = S3Storage(aws, service.create_bucket(f"bucket-{unique}"), "p")
        self.platform = SageMakerTrainingPlatform(
            aws, self.storage, service.role_arn, pacing=Pacing(poll=0.1)
        )
        self.transforms = SageMakerTransforms(aws, self.storage, service.role_arn)
        self.cursor: str | None = None
        (folder / "train.py").write_text("import time; time.sleep(100)")

    def run(
        self,
        status: dg.DagsterRunStatus,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        *,
        noun: str = "training job",
    ) -> str:
        """A run that holds a job, or none."""
        held = job_tag(name, noun) if name else {}
        run = self.instance.create_run_for_job(
            any_job, status=status, tags={**held, **(tags or {})}
        )
        return run.run_id

    def left_behind(
        self,
        status: dg.DagsterRunStatus,
        *,
        fingerprint: str = "abc",
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """The name of a running job, and the run that created it has ended so."""
        job = TrainingJob(
            model=self.model,
            partition=WEEK,
            program=Program("train.py", {"train.py": self.folder / "train.py"}),
            image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1",
            dataset_fingerprint=fingerprint,
            channels=(),
            hyperparameters={},
            seed=7,
            limits=Limits(max_runtime=timedelta(minutes=5)),
        )
        name = job.name(1)
        run_id = self.run(status, name, tags)
        tagged = TrainingJob(**{**vars(job), "tags": {RUN_TAG: run_id}})
        self.platform.create(tagged, name, {})
        return name

    def transform_left_behind(
        self,
        status: dg.DagsterRunStatus,
        *,
        rows: str = "abc",
        max_runtime: timedelta = timedelta(minutes=5),
        bodies: bool = False,
    ) -> str:
        """The name of a running transform job, and the run that created it has ended so."""
        partition = "answers" if bodies else WEEK
        folder = f"transforms/{self.model}/{partition}/{rows}/attempt"
        export = Export(rows, folder, 1, (Part("part-00000", 1),))
        self.storage.create(f"{export.input_key}/part-00000.jsonl", b"{}\n")
        options = TransformOptions(min_rows=1, limits=Limits(max_runtime=max_runtime))
        job = TransformJob(self.model, partition, self._sagemaker_model(), export, options, bodies)
        name = job.name(1)
        run_id = self.run(status, name, noun="transform job")
        self.transforms.create(replace(job, tags={RUN_TAG: run_id}), name, {})
        return name

    def scored(self, name: str, rows: str) -> None:
        """Leaves what a transform job leaves that has completed."""
        output = f"transforms/{self.model}/{WEEK}/{rows}/output/{name}/part-00000.jsonl.out"
        self.storage.create(output, b"{}\n")

    def _sagemaker_model(self) -> str:
        client = self.service.client("sagemaker")
        with suppress(client.exceptions.ClientError):  # made before
            client.create_model(
                ModelName=self.model.replace("_", "-"),
                ExecutionRoleArn=self.service.role_arn,
                PrimaryContainer={
                    "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/inference:1"
                },
            )
        return self.model.replace("_", "-")

    def tick(self) -> str:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={
                "storage": self.storage,
                "training_platform": self.platform,
                "autopilot_platform": UnavailablePlatform("not here"),
                "transform_platform": self.transforms,
            },
        )
        said = orphaned_jobs_sensor()(context)
        self.cursor = context.cursor
        assert isinstance(said, dg.SkipReason)
        return said.skip_message or ""

    def stopped(self) -> list[str]:
        calls = self.service.calls
        training, transforms = calls.of("StopTrainingJob"), calls.of("StopTransformJob")
        return [call.parameters["TrainingJobName"] for call in training] + [
            call.parameters["TransformJobName"] for call in transforms
        ]

    def register(self, name: str) -> None:
        register_model(
            self.storage,
            RegisteredModel(
                model=self.model, partition=WEEK, training_job=name, artifact_uri="s3://b/k",
                trained_at="2015-05-05T00:00:00+00:00", dataset="d", dataset_fingerprint="f",
                spec_digest="s", target="t", target_kind="positive", split="x", features=(),
                warm_up=False,
            ),
        )  # fmt: skip


@pytest.fixture
def site(service: SageMakerService, aws: Aws, tmp_path: Path) -> Iterator[Site]:
    service.settings.stop_grace_seconds = 1
    with dg.DagsterInstance.local_temp(
        str(tmp_path), overrides={"telemetry": {"enabled": False}}
    ) as instance:
        site = Site(service, aws, instance, tmp_path)
        service.calls.clear()
        yield site


def test_a_job_of_a_cancelled_run_is_stopped(site: Site) -> None:
    name = site.left_behind(Status.CANCELED)
    assert f"Stopped {name}: its run was cancelled" in site.tick()
    assert site.platform.describe(name).status in (JobStatus.STOPPING, JobStatus.STOPPED)


def test_a_run_that_ended_just_now_is_looked_at_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lists jobs by their tags may not know the newest ones yet."""
    name = site.left_behind(Status.CANCELED)
    with monkeypatch.context() as patch:
        patch.setattr(site.platform, "jobs_of_runs", lambda run_ids: [])
        assert "1 ended runs were looked at" in site.tick()
    site.tick()
    assert site.stopped() == [name]


def test_once_all_jobs_have_ended_a_run_is_not_looked_at_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sf_sagemaker.components.orphaned_jobs._TAGGED_WITHIN", timedelta(0))
    name = site.left_behind(Status.CANCELED)
    site.tick()
    wait_until(lambda: site.platform.describe(name).status is JobStatus.STOPPED)
    assert "1 ended runs were looked at" in site.tick()
    site.service.calls.clear()
    assert "0 ended runs were looked at" in site.tick()
    assert not list(site.service.calls)
    assert site.stopped() == []


@pytest.mark.parametrize(
    "other",
    [Status.NOT_STARTED, Status.STARTING, Status.STARTED, Status.FAILURE],
)
def test_a_job_that_another_run_holds_goes_on(site: Site, other: dg.DagsterRunStatus) -> None:
    """One that failed holds it too: its retry, or a person, will adopt the job."""
    name = site.left_behind(Status.CANCELED)
    site.run(other, name)
    site.tick()
    assert not site.stopped()


@pytest.mark.parametrize(
    "tags",
    [
        {"dagster/partition": WEEK},
        {
            "dagster/asset_partition_range_start": "2015-04-20",
            "dagster/asset_partition_range_end": "2015-05-04",
        },
    ],
)
def test_a_job_that_a_waiting_run_could_adopt_goes_on(site: Site, tags: dict[str, str]) -> None:
    site.left_behind(Status.CANCELED)
    site.run(Status.NOT_STARTED, tags=tags)
    site.tick()
    assert not site.stopped()


def test_a_job_of_a_failed_run_waits_for_the_next(site: Site) -> None:
    site.left_behind(Status.FAILURE)
    assert "1 of them have jobs that somebody may still want" in site.tick()
    assert not site.stopped()


def test_a_job_whose_period_a_later_job_has_trained_is_stopped(site: Site) -> None:
    older = site.left_behind(Status.FAILURE)
    newer = site.left_behind(Status.FAILURE, fingerprint="other rows")
    site.register(newer)
    said = site.tick()
    assert f"{older}: {newer}, which was created later, has trained the same period" in said
    assert site.stopped() == [older]


def test_a_job_that_was_created_after_the_newest_model_goes_on(site: Site) -> None:
    older = site.left_behind(Status.FAILURE)
    site.register(older)
    site.left_behind(Status.FAILURE, fingerprint="other rows")
    site.tick()
    assert not site.stopped()


def test_a_run_that_will_be_retried_keeps_its_jobs(site: Site) -> None:
    site.left_behind(Status.FAILURE, tags=RETRIES)
    newer = site.left_behind(Status.FAILURE, fingerprint="other rows")
    site.register(newer)
    site.tick()
    assert not site.stopped()


@pytest.fixture
def held(site: Site) -> Site:
    """Transform jobs have their instances and go on until they are stopped."""
    site.service.settings.downloading_seconds = 600
    return site


def started(site: Site, name: str) -> None:
    wait_until(lambda: site.transforms.describe(name).started_at)


def test_a_transform_job_of_a_cancelled_run_is_stopped(held: Site) -> None:
    name = held.transform_left_behind(Status.CANCELED)
    assert f"Stopped {name}: its run was cancelled" in held.tick()
    assert held.service.transforms.wait(name).status == "Stopped"


def test_a_transform_job_that_another_run_holds_or_could_adopt_goes_on(held: Site) -> None:
    name = held.transform_left_behind(Status.CANCELED)
    held.run(Status.STARTED, name, noun="transform job")
    held.transform_left_behind(Status.FAILURE, rows="other rows")
    assert "2 of them have jobs that somebody may still want" in held.tick()
    assert not held.stopped()


def test_a_transform_job_that_runs_for_too_long_is_stopped(held: Site) -> None:
    """The next run may adopt it, if one ever comes; nothing else would bound it."""
    name = held.transform_left_behind(Status.FAILURE, max_runtime=timedelta(0))
    other = held.transform_left_behind(Status.FAILURE, rows="other rows")
    # Which would be stopped by the run that waits for it.
    waited_for = held.transform_left_behind(
        Status.FAILURE, rows="more rows", max_runtime=timedelta(0)
    )
    held.run(Status.STARTED, waited_for, noun="transform job")
    for job in (name, other, waited_for):
        started(held, job)
    assert f"{name}: it ran for longer than its max_runtime, 0:00:00" in held.tick()
    assert held.stopped() == [name]


def test_a_transform_job_whose_period_a_later_one_has_scored_is_stopped(held: Site) -> None:
    older = held.transform_left_behind(Status.FAILURE)
    newer = held.transform_left_behind(Status.FAILURE, rows="newer")
    held.scored(newer, "newer")
    said = held.tick()
    assert f"{older}: {newer}, which was created later, has scored the same period" in said
    assert held.stopped() == [older]


def test_a_transform_job_that_left_a_part_of_its_output_has_not_scored(held: Site) -> None:
    held.transform_left_behind(Status.FAILURE)
    newer = held.transform_left_behind(Status.FAILURE, rows="newer")
    held.scored(newer, "newer")
    held.transforms.stop(newer)
    held.service.transforms.wait(newer)
    held.service.calls.clear()
    held.tick()
    assert not held.stopped()


def test_a_transform_job_that_asks_a_model_is_replaced_by_no_other(held: Site) -> None:
    held.transform_left_behind(Status.FAILURE, bodies=True)
    other = held.transform_left_behind(Status.FAILURE, rows="other", bodies=True)
    held.scored(other, "other")
    held.tick()
    assert not held.stopped()


def test_another_deployments_jobs_are_not_ours(site: Site, aws: Aws) -> None:
    """Of the same account and the same run ids, even."""
    site.left_behind(Status.CANCELED)
    site.platform = SageMakerTrainingPlatform(
        aws, S3Storage(aws, site.storage.bucket, "another"), site.service.role_arn
    )
    site.tick()
    assert not site.stopped()


def test_a_platform_that_does_not_answer_is_asked_at_the_next_tick(site: Site) -> None:
    name = site.left_behind(Status.CANCELED)
    site.service.faults.throttle("GetResources", times=1)
    assert "did not answer" in site.tick()
    site.tick()
    assert site.stopped() == [name]
