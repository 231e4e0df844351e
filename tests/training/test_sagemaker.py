"""Jobs on SageMaker, from creation to artifact, and everything that may come between.

Client calls for one job on one host with n polls while it trains, with the default pacing:
before creation 1 HeadBucket in a process, 1 ListObjectsV2 for each channel (and 1 HeadObject for one
that is a single key), 1 HeadObject for the code (and 1 PutObject if it is new), 1 PutObject for the
Pipes context, 1 BatchGetImage in a process; 1 CreateTrainingJob; n + 2 DescribeTrainingJob; for each
poll 1 DescribeLogStreams and 1 GetLogEvents, and 1 more GetLogEvents where there are new lines; 1
HeadObject and 1 GetObject for the artifact. Never a List of training jobs.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sf_sagemaker.aws import AccessDenied, Aws, CredentialsRefused
from sf_sagemaker.containers import program_files
from sf_sagemaker.s3 import InvalidBucket, S3Storage
from sf_sagemaker.training.cost import CostAboveMaximum, actual_cost, spot_saving
from sf_sagemaker.training.errors import (
    ArtifactCorrupt,
    TrainingJobFailed,
    TrainingJobStopped,
    TrainingJobVanished,
)
from sf_sagemaker.training.job import Channel, Limits, Program, TrainingJob
from sf_sagemaker.training.platform import (
    ArtifactMissing,
    FailureKind,
    JobDescription,
    JobNameTaken,
    JobNotFound,
    JobRefused,
    JobStatus,
    Pacing,
    PlatformUnavailable,
)
from sf_sagemaker.training.run import TRAINING, JobResult, run_job
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from sf_sagemaker.training.sagemaker_errors import (
    ImageNotUsable,
    QuotaExceeded,
    RoleNotUsable,
    failure_kind,
)
from standins.sagemaker.quotas import WARM_POOL
from standins.sagemaker.service import SageMakerService
from waiting import wait_until

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1"
PACING = Pacing(poll=0.1, longest_poll=0.2, settle=0.6, retry=0.1)

NewJob = Callable[..., TrainingJob]

SCRIPT = """
import json, os, pathlib
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
print("training")
(base / "model" / "model.txt").write_text("a model")
"""

WAITING = """
import os, pathlib, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
print("waiting")
while not pathlib.Path(os.environ["GO"]).exists():
    time.sleep(0.02)
(base / "model" / "model.txt").write_text("a model")
"""


class Runs:
    """Runs of jobs on the stand-in, and what was heard of them."""

    def __init__(self, platform: SageMakerTrainingPlatform) -> None:
        self.platform = platform
        self.lines: list[str] = []
        self.statuses: list[str] = []
        self.environment: dict[str, str] = {}

    def run(self, job: TrainingJob, **options: Any) -> JobResult:
        self.lines.clear()
        return run_job(
            job,
            self.platform,
            TRAINING,
            open_messages=lambda name: nullcontext(self.environment),
            on_log=lambda line: self.lines.append(f"{line.host} {line.text}"),
            on_status=lambda d: self.statuses.append(f"{d.status} {d.secondary_status}"),
            **options,
        )


@pytest.fixture
def bucket(service: SageMakerService, aws: Aws) -> S3Storage:
    name = service.create_bucket(f"training-data-{uuid.uuid4().hex[:8]}")
    storage = S3Storage(aws, name, "project")
    for shard in range(4):
        storage.create(f"data/train/shard={shard:03}/part.txt", f"rows of {shard}".encode())
    storage.create("data/train-of-another/part.txt", b"not ours")
    storage.create("data/schema.json", b"{}")
    service.calls.clear()
    return storage


@pytest.fixture
def sagemaker(service: SageMakerService, aws: Aws, bucket: S3Storage) -> SageMakerTrainingPlatform:
    return SageMakerTrainingPlatform(aws, bucket, service.role_arn, pacing=PACING)


@pytest.fixture
def runs(sagemaker: SageMakerTrainingPlatform, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(sagemaker)
    runs.environment["GO"] = str(tmp_path / "go")
    yield runs
    (tmp_path / "go").touch()


@pytest.fixture
def go(runs: Runs) -> Callable[[], None]:
    """Lets jobs that wait go on."""
    return lambda: Path(runs.environment["GO"]).touch()


@pytest.fixture
def sagemaker_job(new_job: NewJob, bucket: S3Storage) -> NewJob:
    """Makes a job of a model of the test's own: the names of jobs can't be used again."""

    def new(script: str = SCRIPT, **changes: Any) -> TrainingJob:
        model = bucket.bucket.replace("training-data-", "m_")
        return replace(new_job(script), **{"image": IMAGE, "model": model, **changes})

    return new


def created(service: SageMakerService) -> list[str]:
    """The names of the jobs that exist."""
    return [
        call.parameters["TrainingJobName"]
        for call in service.calls.of("CreateTrainingJob")
        if call.status == 200
    ]


# ------------------------------------------------------------------------------------ life


def test_a_job_runs_and_its_model_is_fetched(
    runs: Runs,
    sagemaker_job: NewJob,
    bucket: S3Storage,
    tmp_path: Path,
    service: SageMakerService,
) -> None:
    job = sagemaker_job(
        channels=(Channel("train", "data/train", "sharded"), Channel("schema", "data/schema.json"))
    )
    service.calls.clear()
    result = runs.run(job)
    assert (result.name, result.attempt, result.adopted) == (job.name(1), 1, False)
    assert runs.statuses[0].startswith("InProgress")
    assert runs.statuses[-1] == "Completed Completed"
    assert runs.lines == ["algo-1 training"]
    model = runs.platform.fetch_artifact(result.name, tmp_path / "out")
    assert (model / "model.txt").read_text() == "a model"
    description = result.description
    assert description.artifact_uri == (
        f"s3://{bucket.bucket}/project/training-jobs/{result.name}/output/model.tar.gz"
    )
    assert description.billable_seconds is not None
    assert description.page is not None
    assert description.page.endswith(f"#/jobs/{result.name}")
    assert description.log is not None
    assert result.name in description.log

    counts = service.calls.counts()
    polls = counts["sagemaker:DescribeTrainingJob"] - 1  # the first finds no job
    assert counts == {
        "ecr:BatchGetImage": 1,
        "logs:DescribeLogStreams": counts["logs:DescribeLogStreams"],
        "logs:GetLogEvents": counts["logs:GetLogEvents"],
        "s3:GetObject": 1,  # the artifact
        "s3:HeadBucket": 1,
        "s3:HeadObject": 3,  # the schema, the code, the artifact
        "s3:ListObjectsV2": 2,
        "s3:PutObject": 1,  # the code
        "sagemaker:CreateTrainingJob": 1,
        "sagemaker:DescribeTrainingJob": polls + 1,
    }
    settling = 6
    assert counts["logs:DescribeLogStreams"] <= polls + settling + 1
    assert counts["logs:GetLogEvents"] <= 2 * (polls + settling)


def test_hosts_get_their_shards_and_only_those(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    script = """
    import os, pathlib
    base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
    print(sorted(path.parent.name for path in (base / "input/data/train").rglob("*.txt")))
    (base / "model" / "model.txt").write_text("a model")
    """
    job = sagemaker_job(
        script, channels=(Channel("train", "data/train", "sharded"),), instance_count=2
    )
    runs.run(job)
    assert sorted(runs.lines) == [
        "algo-1 ['shard=000', 'shard=002']",
        "algo-2 ['shard=001', 'shard=003']",
    ]
    (call,) = service.calls.of("CreateTrainingJob")
    (channel,) = [c for c in call.parameters["InputDataConfig"] if c["ChannelName"] == "train"]
    source = channel["DataSource"]["S3DataSource"]
    assert source["S3DataDistributionType"] == "ShardedByS3Key"
    assert source["S3Uri"].endswith("/data/train/")


def test_a_second_run_adopts_without_training(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    job = sagemaker_job()
    runs.run(job)
    again = runs.run(job)
    assert (again.name, again.adopted) == (job.name(1), True)
    assert runs.lines == ["algo-1 training"]
    assert created(service) == [job.name(1)]


def test_two_runs_at_once_train_once(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    job = sagemaker_job()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: Runs(runs.platform).run(job), range(2)))
    assert sorted(result.adopted for result in results) == [False, True]
    assert created(service) == [job.name(1)]


def test_pipes_travels_with_the_code(runs: Runs, sagemaker_job: NewJob, tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text("import dagster_pipes; print(dagster_pipes.__file__)")
    files = {**program_files("xgboost")[1], "main.py": script}
    runs.run(sagemaker_job(program=Program("main.py", files)))
    (line,) = runs.lines
    assert line.endswith("/code/dagster_pipes/__init__.py")


def test_the_code_is_uploaded_once_for_each_content(
    runs: Runs, sagemaker_job: NewJob, bucket: S3Storage
) -> None:
    runs.run(sagemaker_job())
    runs.run(sagemaker_job(partition="2015-05-04"))
    assert len(list(bucket.list("code"))) == 1
    runs.run(sagemaker_job(SCRIPT + "print('more')\n"))
    assert len(list(bucket.list("code"))) == 2


def test_a_failed_program_says_why_and_is_not_tried_again(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    job = sagemaker_job(
        """
        import os, pathlib, sys
        base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        print("about to fail")
        (base / "output").mkdir(exist_ok=True)
        (base / "output" / "failure").write_text("CapacityError of mine: the rows are wrong")
        sys.exit(1)
        """
    )
    with pytest.raises(TrainingJobFailed, match=r"(?s)the rows are wrong.*about to fail") as raised:
        runs.run(job)
    assert raised.value.description.failure_kind is FailureKind.ALGORITHM
    assert raised.value.permanent
    assert created(service) == [job.name(1)]
    with pytest.raises(TrainingJobFailed):  # a person who asks again gets another attempt
        runs.run(job)
    assert created(service) == [job.name(1), job.name(2)]


def test_an_attempt_goes_on_from_the_checkpoints_of_the_one_before(
    runs: Runs, sagemaker_job: NewJob, tmp_path: Path
) -> None:
    job = sagemaker_job(
        """
        import os, pathlib, sys
        base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        checkpoint = base / "checkpoints" / "epoch"
        if not checkpoint.exists():
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.write_text("1")
            sys.exit("out of memory")
        (base / "model" / "model.txt").write_text("from epoch " + checkpoint.read_text())
        """
    )
    with pytest.raises(TrainingJobFailed):
        runs.run(job)
    result = runs.run(job)
    model = runs.platform.fetch_artifact(result.name, tmp_path / "out")
    assert (model / "model.txt").read_text() == "from epoch 1"


def test_time_limits_end_a_job_and_say_what_to_raise(runs: Runs, sagemaker_job: NewJob) -> None:
    job = sagemaker_job(WAITING, limits=Limits(max_runtime=timedelta(seconds=1)))
    with pytest.raises(TrainingJobStopped, match=r"MaxRuntimeExceeded.*compute.max_runtime"):
        runs.run(job)


def test_stopping_is_not_success_and_needs_no_running_job(
    runs: Runs, sagemaker_job: NewJob
) -> None:
    job = sagemaker_job(WAITING)
    platform = runs.platform
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job)
        wait_until(lambda: runs.lines)
        platform.stop(job.name(1))
        with pytest.raises(TrainingJobStopped, match="Stopped") as raised:
            running.result(20)
    assert raised.value.permanent  # who stopped it doesn't want it started anew
    platform.stop(job.name(1))  # it has ended
    with pytest.raises(JobNotFound, match="nobody"):
        platform.stop("nobody")
    with pytest.raises(JobNotFound, match="nobody"):
        platform.describe("nobody")


def test_spot_instances_that_are_taken_away_come_back(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.interrupt_spot(after_seconds=2)
    service.settings.restart_seconds = 0.6
    script = """
    import os, pathlib, time
    base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
    checkpoint = base / "checkpoints" / "started"
    if not checkpoint.exists():
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text("1")
        print("first start")
        time.sleep(60)
    print("second start")
    (base / "model" / "model.txt").write_text("a model")
    """
    job = sagemaker_job(script, limits=Limits(spot=True, price_per_hour=0.36))
    result = runs.run(job)
    assert runs.lines == ["algo-1 first start", "algo-1 second start"]
    assert "InProgress Interrupted" in runs.statuses
    (call,) = service.calls.of("CreateTrainingJob")
    assert call.parameters["EnableManagedSpotTraining"] is True
    assert call.parameters["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 3600,
        "MaxWaitTimeInSeconds": 7200,
    }
    description = result.description
    assert description.training_seconds
    assert description.billable_seconds is not None
    saving = spot_saving(description)
    assert saving is not None
    assert 0 < saving < 1
    cost = actual_cost(description, job.limits)
    assert cost == pytest.approx(0.36 * description.billable_seconds / 3600)


# ------------------------------------------------------------------------------- interrupted


def test_a_killed_waiter_leaves_the_job_for_the_next(
    runs: Runs,
    bucket: S3Storage,
    sagemaker_job: NewJob,
    tmp_path: Path,
    service: SageMakerService,
    go: Callable[[], None],
) -> None:
    job = sagemaker_job(WAITING)
    waiter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(ANOTHER_PROCESS),
            str(tmp_path),
            service.role_arn,
            bucket.bucket,
            job.model,
        ]
    )
    wait_until(lambda: created(service), 60)
    os.kill(waiter.pid, signal.SIGKILL)
    waiter.wait()
    go()
    result = runs.run(job)
    assert (result.name, result.adopted) == (job.name(1), True)
    assert runs.lines == ["algo-1 waiting"]
    assert created(service) == [job.name(1)]


ANOTHER_PROCESS = f"""
import sys
from contextlib import nullcontext
from pathlib import Path
from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.training.job import Limits, Program, TrainingJob
from sf_sagemaker.training.run import TRAINING, run_job
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from datetime import timedelta

folder = Path(sys.argv[1])
platform = SageMakerTrainingPlatform(
    Aws(), S3Storage(Aws(), sys.argv[3], "project"), sys.argv[2]
)
job = TrainingJob(
    model=sys.argv[4], partition="2015-04-27",
    program=Program("train.py", {{"train.py": folder / "train.py"}}),
    image={IMAGE!r}, dataset_fingerprint="abc", channels=(), hyperparameters={{}}, seed=7,
    limits=Limits(max_runtime=timedelta(minutes=1)),
)
run_job(
    job, platform, TRAINING, open_messages=lambda name: nullcontext({{"GO": str(folder / "go")}})
)
"""


def test_what_nobody_wants_any_more_is_stopped(runs: Runs, sagemaker_job: NewJob) -> None:
    job = sagemaker_job(WAITING)

    def interrupt(seconds: float) -> None:
        if runs.lines:
            raise KeyboardInterrupt

        time.sleep(seconds)

    with pytest.raises(KeyboardInterrupt):
        runs.run(job, pause=interrupt, should_stop=lambda name: True)
    wait_until(lambda: runs.platform.describe(job.name(1)).status is JobStatus.STOPPED)


# ------------------------------------------------------------------------------ AWS's troubles


def test_polling_bears_throttling_and_internal_errors(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService, go: Callable[[], None]
) -> None:
    for operation in ("DescribeTrainingJob", "GetLogEvents", "DescribeLogStreams"):
        service.faults.throttle(operation, times=2)
    service.faults.internal_error("DescribeTrainingJob", times=2)
    assert runs.run(sagemaker_job()).attempt == 1
    assert not service.faults.left()


def test_creation_bears_throttling(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.throttle("CreateTrainingJob", times=2)
    job = sagemaker_job()
    assert runs.run(job).adopted is False
    assert created(service) == [job.name(1)]


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("loses", ["lose_answer", "lose_request"])
def test_a_lost_connection_at_creation_trains_once(
    bucket: S3Storage,
    sagemaker_job: NewJob,
    service: SageMakerService,
    loses: str,
    attempts: int,
) -> None:
    getattr(service.faults, loses)("CreateTrainingJob")
    job = sagemaker_job()
    aws = Aws(attempts=attempts)
    platform = SageMakerTrainingPlatform(aws, bucket, service.role_arn, pacing=PACING)
    result = Runs(platform).run(job)
    assert (result.name, result.adopted) == (job.name(1), False)
    assert len(created(service)) == 1


def test_a_job_that_cannot_be_seen_yet_is_waited_for(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.settings.hidden_seconds = 1.5
    job = sagemaker_job()
    assert runs.run(job).name == job.name(1)
    assert created(service) == [job.name(1)]


def test_a_hidden_job_of_another_run_is_adopted(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.settings.hidden_seconds = 1.0
    job = sagemaker_job()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: Runs(runs.platform).run(job), range(2)))
    assert {result.name for result in results} == {job.name(1)}
    assert len(created(service)) == 1


def test_a_platform_that_stays_away_is_given_up_and_the_job_goes_on(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    job = sagemaker_job(WAITING)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job, patience=timedelta(seconds=1))
        wait_until(lambda: runs.lines)
        service.faults.throttle("DescribeTrainingJob", times=None)
        with pytest.raises(
            PlatformUnavailable, match=r"describe training job.*ThrottlingException"
        ):
            running.result(60)
    service.faults.clear()
    assert runs.platform.describe(job.name(1)).status is JobStatus.IN_PROGRESS


def test_capacity_and_internal_errors_are_followed_by_another_attempt(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.capacity_error()
    service.faults.internal_failure()
    job = sagemaker_job()
    result = runs.run(job)
    assert (result.name, result.adopted) == (job.name(3), False)
    assert created(service) == [job.name(1), job.name(2), job.name(3)]


def test_attempts_for_want_of_capacity_are_bounded(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.capacity_error(times=10)
    job = sagemaker_job()
    with pytest.raises(TrainingJobFailed, match=r"CapacityError.*compute.instance_type") as raised:
        runs.run(job, retries=2)
    assert not raised.value.permanent  # later, a run's retry may find capacity
    assert created(service) == [job.name(1), job.name(2), job.name(3)]


def test_another_attempt_must_leave_the_maximum_cost_in_peace(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.internal_failure(after_seconds=1.2)
    limits = Limits(price_per_hour=3600.0, max_cost=3600.0, max_runtime=timedelta(hours=1))
    job = sagemaker_job(WAITING, limits=limits)
    with pytest.raises(
        CostAboveMaximum, match=r"3600.00, after the \d+.00 of attempts that failed"
    ):
        runs.run(job)
    assert created(service) == [job.name(1)]


def test_a_host_that_was_silent_for_a_day_is_read_on(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService, go: Callable[[], None],
) -> None:  # fmt: skip
    """CloudWatch's tokens expire after a day."""
    job = sagemaker_job(WAITING + "print('going on')\n")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job)
        wait_until(lambda: runs.lines)
        service.faults.fail(
            "GetLogEvents",
            "InvalidParameterException",
            "The specified nextToken is expired.",
            where=lambda request: "nextToken" in request.parameters,
        )
        wait_until(lambda: not service.faults.left())
        go()
        running.result(20)
    assert runs.lines == ["algo-1 waiting", "algo-1 going on"]


def test_log_lines_that_arrive_late_are_not_lost(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.settings.log_delay_seconds = 0.4
    service.faults.empty_log_pages(2)
    runs.run(sagemaker_job())
    assert runs.lines == ["algo-1 training"]


def test_an_old_job_is_adopted_without_waiting_for_its_log(
    runs: Runs, sagemaker_job: NewJob, sagemaker: SageMakerTrainingPlatform
) -> None:
    job = sagemaker_job()
    runs.run(job)
    sagemaker.pacing = replace(PACING, settle=30.0)
    ended = sagemaker.describe(job.name(1)).ended_at
    assert ended is not None
    pauses: list[float] = []
    runs.run(job, pause=pauses.append, log_complete=lambda: True)
    assert not pauses


def test_a_clock_that_is_behind_doesnt_prolong_the_wait_for_the_log(
    runs: Runs, sagemaker_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = runs.platform.describe

    def ahead(name: str) -> JobDescription:
        description = describe(name)
        ended = description.ended_at
        return replace(description, ended_at=ended and ended + timedelta(hours=1))

    monkeypatch.setattr(runs.platform, "describe", ahead)
    start = time.monotonic()
    runs.run(sagemaker_job())
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("AlgorithmError: InternalServerError, exit code: 1", FailureKind.ALGORITHM),
        ("CapacityError: Unable to provision requested ML compute capacity.", FailureKind.CAPACITY),
        ("EC2InsufficientCapacityError: Instance type", FailureKind.CAPACITY),
        ("InsufficientInstanceCapacity: no", FailureKind.CAPACITY),
        ("InternalServerError: We encountered an internal error.", FailureKind.INTERNAL),
        ("ThrottlingException: Rate exceeded", FailureKind.INTERNAL),
        ("ClientError: No S3 objects found under S3 URL", FailureKind.CONFIGURATION),
        ("Something new", None),
    ],
)
def test_failures_are_told_apart_by_how_their_reason_begins(
    reason: str, kind: FailureKind | None
) -> None:
    assert failure_kind(reason) is kind


# ---------------------------------------------------------------------------------- bad input


def refused_before_creation(
    platform: SageMakerTrainingPlatform, job: TrainingJob, service: SageMakerService
) -> str:
    with pytest.raises(Exception) as raised:
        platform.create(job, job.name(1), {})
    assert not created(service)
    return f"{raised.type.__name__}: {raised.value}"


def test_what_would_be_refused_is_refused_before_anything_is_created(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    for changes, says in {
        "no files": (
            {"channels": (Channel("train", "data/nothing"),)},
            f"KeyMissing: channel 'train' has no files: s3://{sagemaker.storage.bucket}/project/data/nothing",
        ),
        "cost": (
            {"limits": Limits(price_per_hour=2.0, max_cost=3.0), "instance_count": 2},
            "CostAboveMaximum: 1 job of 2 x ml.m5.xlarge for up to 1:00:00 could cost 4.00",
        ),
        "length": (
            {"hyperparameters": {"a": "x" * 2501}},
            "InvalidTrainingJob: 2501 characters in hyperparameter a: SageMaker takes 2500",
        ),
        "reserved": (
            {"channels": (Channel("code", "data/schema.json"),)},
            "InvalidTrainingJob: channel code: that name is the platform's own",
        ),
        "image": ({"image": "xgboost:1"}, "ImageNotUsable: 'xgboost:1' is not an image in ECR"),
    }.values():
        found = refused_before_creation(sagemaker, sagemaker_job(**changes), service)
        assert found.startswith(says), found
    assert not service.calls.of("CreateTrainingJob")


def test_a_bucket_in_another_region_is_refused(
    service: SageMakerService, sagemaker_job: NewJob, aws: Aws
) -> None:
    service.create_bucket("far-away", "eu-west-1")
    storage = S3Storage(aws, "far-away")
    platform = SageMakerTrainingPlatform(aws, storage, service.role_arn)
    job = sagemaker_job()
    with pytest.raises(InvalidBucket, match=r"eu-west-1.*us-east-1"):
        platform.create(job, job.name(1), {})


def test_a_quota_of_nothing_says_where_to_ask(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.fail(
        "CreateTrainingJob",
        "ResourceLimitExceeded",
        "The account-level service limit 'ml.m5.xlarge for training job usage' is 0 Instances.",
    )
    job = sagemaker_job()
    with pytest.raises(QuotaExceeded, match=r"is 0 Instances.*Service Quotas") as raised:
        sagemaker.create(job, job.name(1), {})
    assert raised.value.permanent
    assert len(service.calls.of("CreateTrainingJob")) == 1


def test_instances_that_other_jobs_use_are_waited_for(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService, go: Callable[[], None],
) -> None:  # fmt: skip
    service.quotas.set("ml.m5.xlarge", 1)
    first = sagemaker_job(WAITING)
    other = Runs(runs.platform)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(runs.run, first)
        wait_until(lambda: runs.lines)
        second = sagemaker_job(partition="2015-05-04")
        running = pool.submit(other.run, second)
        wait_until(lambda: len(service.calls.of("CreateTrainingJob")) > 2)
        assert len(created(service)) == 1
        go()
        assert [waiting.result(20).attempt, running.result(20).attempt] == [1, 1]
    assert len(created(service)) == 2
    two = replace(second, instance_count=2)
    with pytest.raises(QuotaExceeded, match="request delta of 2"):
        runs.platform.create(two, two.name(1), {})


def test_a_role_that_may_not_be_passed_is_named(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    service.faults.forbid_passing(service.role_arn)
    job = sagemaker_job()
    with pytest.raises(RoleNotUsable, match=f"iam:PassRole for {service.role_arn}"):
        sagemaker.create(job, job.name(1), {})


def test_a_role_that_sagemaker_cannot_assume_is_named(
    bucket: S3Storage, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    role = service.create_role("for-lambda", "lambda.amazonaws.com")
    platform = SageMakerTrainingPlatform(bucket._aws, bucket, role)
    job = sagemaker_job()
    with pytest.raises(RoleNotUsable, match=r"for-lambda.*trust"):
        platform.create(job, job.name(1), {})


def test_denied_and_expired_callers_are_told(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    job = sagemaker_job()
    service.faults.deny("DescribeTrainingJob", times=1)
    with pytest.raises(AccessDenied, match=r"describe training job.*DescribeTrainingJob"):
        sagemaker.describe(job.name(1))
    service.faults.deny("CreateTrainingJob", times=1)
    with pytest.raises(JobRefused, match="sagemaker:CreateTrainingJob"):
        sagemaker.create(job, job.name(1), {})
    service.faults.expire_credentials()
    with pytest.raises(CredentialsRefused, match=r"expired.*renew"):
        sagemaker.describe(job.name(1))


def test_a_job_that_is_deleted_under_us_vanishes(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService,
    sagemaker: SageMakerTrainingPlatform, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sf_sagemaker.training.sagemaker_jobs._APPEARING_SECONDS", 0.5)
    job = sagemaker_job(WAITING)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job)
        wait_until(lambda: runs.lines)
        service.faults.fail(
            "DescribeTrainingJob",
            "ValidationException",
            "Requested resource not found.",
            times=None,
        )
        with pytest.raises(TrainingJobVanished, match=job.name(1)):
            running.result(20)


def test_a_job_that_is_being_deleted_is_no_job(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    name = runs.run(sagemaker_job()).name
    service.jobs[name].status = "Deleting"
    with pytest.raises(JobNotFound, match=f"{name}.*being deleted"):
        runs.platform.describe(name)


def test_the_name_of_a_deleted_job_is_passed_over(
    runs: Runs, sagemaker_job: NewJob, service: SageMakerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sf_sagemaker.training.sagemaker_jobs._APPEARING_SECONDS", 0.3)
    job = sagemaker_job()
    service.faults.fail(
        "CreateTrainingJob",
        "ResourceInUse",
        "Training job names must be unique",
        times=None,
        where=lambda request: request.parameters["TrainingJobName"] == job.name(1),
    )
    result = runs.run(job)
    assert (result.name, result.adopted) == (job.name(2), False)
    assert created(service) == [job.name(2)]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_job_of_another_deployment_is_neither_adopted_nor_stopped(
    runs: Runs,
    sagemaker_job: NewJob,
    service: SageMakerService,
    at_once: bool,
) -> None:
    """The same data and code have the same name in every deployment of an account."""
    job = sagemaker_job(WAITING)
    storage = S3Storage(runs.platform._aws, runs.platform.storage.bucket, "another")
    another = Runs(
        SageMakerTrainingPlatform(storage._aws, storage, service.role_arn, pacing=PACING)
    )
    another.environment = runs.environment

    def interrupt(seconds: float) -> None:
        if another.lines:
            raise KeyboardInterrupt
        time.sleep(seconds)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job)
        wait_until(lambda: runs.lines)
        if at_once:  # each finds no job before the other's is there
            service.faults.fail(
                "DescribeTrainingJob", "ValidationException", "Requested resource not found.",
                where=lambda request: request.parameters["TrainingJobName"] == job.name(1),
            )  # fmt: skip
        service.calls.clear()
        with pytest.raises(KeyboardInterrupt):
            another.run(job, pause=interrupt, should_stop=lambda name: True)
        assert created(service) == [job.name(2)]
        stopped = [c.parameters["TrainingJobName"] for c in service.calls.of("StopTrainingJob")]
        assert stopped == [job.name(2)]
        Path(runs.environment["GO"]).touch()
        assert running.result(20).name == job.name(1)


def test_an_artifact_that_is_gone_or_damaged_is_named(
    runs: Runs,
    sagemaker_job: NewJob,
    tmp_path: Path,
    bucket: S3Storage,
    service: SageMakerService,
) -> None:
    job = sagemaker_job()
    name = runs.run(job).name
    key = f"training-jobs/{name}/output/model.tar.gz"
    whole = bucket.read(key)
    bucket.delete(key)
    assert not runs.platform.has_artifact(name)
    with pytest.raises(ArtifactMissing, match=key):
        runs.platform.fetch_artifact(name, tmp_path / "out")
    with pytest.raises(JobNotFound):
        runs.platform.fetch_artifact("nobody", tmp_path / "out")
    bucket.create(key, whole[: len(whole) // 2])
    with pytest.raises(ArtifactCorrupt, match=key):
        runs.platform.fetch_artifact(name, tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
    bucket.delete(key)
    assert runs.run(job).name == job.name(2)  # adopted no longer


def test_channels_without_a_name_taken(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, bucket: S3Storage
) -> None:
    job = sagemaker_job()
    sagemaker.create(job, job.name(1), {"A": "1"})
    with pytest.raises(JobNameTaken, match=job.name(1)):
        sagemaker.create(job, job.name(1), {"A": "2"})


# ------------------------------------------------------------------------------ what is asked


def request_of(
    platform: SageMakerTrainingPlatform, job: TrainingJob, service: SageMakerService
) -> Mapping[str, Any]:
    service.calls.clear()
    platform.create(job, job.name(1), {})
    return service.calls.of("CreateTrainingJob")[0].parameters


def test_the_request_says_what_the_limits_ask_for(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    job = sagemaker_job(
        limits=Limits(
            instance_type="ml.m5.large",
            max_runtime=timedelta(minutes=90),
            volume_gb=50,
            keep_alive=timedelta(minutes=10),
            network_isolation=True,
            kms_key="alias/training",
        ),
        tags={"cost-center": "analytics", "sf_sagemaker:run": "a-run"},
    )
    service.quotas.set("ml.m5.large", 1, WARM_POOL)
    request = request_of(sagemaker, job, service)
    assert request["ResourceConfig"] == {
        "InstanceType": "ml.m5.large",
        "InstanceCount": 1,
        "VolumeSizeInGB": 50,
        "KeepAlivePeriodInSeconds": 600,
        "VolumeKmsKeyId": "alias/training",
    }
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}
    assert request["OutputDataConfig"]["KmsKeyId"] == "alias/training"
    assert request["EnableNetworkIsolation"] is True
    assert "VpcConfig" not in request
    assert {tag["Key"]: tag["Value"] for tag in request["Tags"]} == {
        "cost-center": "analytics",
        "sf_sagemaker:project": sagemaker.storage.project,
        "sf_sagemaker:model": job.model,
        "sf_sagemaker:partition": "2015-04-27",
        "sf_sagemaker:run": "a-run",
    }
    found = sagemaker.jobs_of_runs(["another", "a-run"])
    assert [(one.name, one.model, one.run_id) for one in found] == [
        (job.name(1), job.model, "a-run")
    ]


def test_default_subnets_are_looked_up_when_asked_and_once(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    limits = Limits(default_subnets=True)
    request = request_of(sagemaker, sagemaker_job(limits=limits), service)
    subnets = service.client("ec2").describe_subnets()["Subnets"]
    assert set(request["VpcConfig"]["Subnets"]) == {subnet["SubnetId"] for subnet in subnets}
    assert len(request["VpcConfig"]["SecurityGroupIds"]) == 1
    request_of(sagemaker, sagemaker_job(limits=limits, partition="2015-05-04"), service)
    assert not service.calls.of("DescribeSecurityGroups")


def test_own_subnets_win_over_the_deployments(
    bucket: S3Storage, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    ec2 = service.client("ec2")
    first, second = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]][:2]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    platform = SageMakerTrainingPlatform(
        bucket._aws, bucket, service.role_arn, subnets=[first], security_groups=[group], kms_key="k"
    )
    request = request_of(platform, sagemaker_job(), service)
    assert request["VpcConfig"] == {"Subnets": [first], "SecurityGroupIds": [group]}
    assert request["OutputDataConfig"]["KmsKeyId"] == "k"
    limits = Limits(subnets=(second,), security_groups=(group,))
    job = sagemaker_job(limits=limits, partition="2015-05-04")
    assert request_of(platform, job, service)["VpcConfig"]["Subnets"] == [second]


def test_images_are_known_by_their_digest(
    sagemaker: SageMakerTrainingPlatform, sagemaker_job: NewJob, service: SageMakerService
) -> None:
    ecr = service.client("ecr")
    ecr.create_repository(repositoryName="built")
    account, region = service.account, service.region
    uri = f"{account}.dkr.ecr.{region}.amazonaws.com/built:1"
    with pytest.raises(ImageNotUsable, match="there is no image"):
        sagemaker.image("xgboost", custom=uri)
    index = (
        '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": '
        '[{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:%s", '
        '"size": 1, "platform": {"architecture": "arm64", "os": "linux"}}]}' % ("0" * 64)
    )
    pushed = ecr.put_image(repositoryName="built", imageManifest=index, imageTag="1")
    platform = SageMakerTrainingPlatform(sagemaker._aws, sagemaker.storage, service.role_arn)
    digest = pushed["image"]["imageId"]["imageDigest"]
    pinned = platform.image("xgboost", custom=uri)
    assert pinned == f"{uri.removesuffix(':1')}@{digest}"
    job = sagemaker_job(image=pinned)
    with pytest.raises(ImageNotUsable, match=r"built for arm64.*ml.m5.xlarge has amd64"):
        platform.create(job, job.name(1), {})
    assert not service.calls.of("CreateTrainingJob")
    with pytest.raises(ImageNotUsable, match="no repository"):
        platform.image("xgboost", custom=uri.replace("built", "nothing"))
    with pytest.raises(ImageNotUsable, match="lies in eu-west-1"):
        platform.image("xgboost", custom=uri.replace(region, "eu-west-1"))


@pytest.mark.slow  # importing the SDK takes seconds
def test_the_frameworks_images_are_sagemakers_own(sagemaker: SageMakerTrainingPlatform) -> None:
    image = sagemaker.image("xgboost", "ml.m5.xlarge")
    assert image.endswith("/sagemaker-xgboost:3.2-0")
    image = sagemaker.image("llm", "ml.g5.xlarge")
    assert "huggingface-pytorch-training" in image
    for kind in ("ml.g4dn.12xlarge", "ml.g6e.xlarge", "ml.p4d.24xlarge", "ml.p5.48xlarge"):
        assert sagemaker.image("llm", kind) == image
    for kind in ("ml.m5.xlarge", "ml.c6gn.xlarge", "ml.m7g.xlarge", "ml.trn1.2xlarge"):
        with pytest.raises(ImageNotUsable, match=rf"{kind}, which has no GPU.*families g or p"):
            sagemaker.image("llm", kind)


def test_no_credential_is_told_to_anyone(
    bucket: S3Storage,
    sagemaker_job: NewJob,
    service: SageMakerService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    canary = "canary-7c1f0b6a"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", canary)
    platform = SageMakerTrainingPlatform(
        Aws(attempts=1), S3Storage(Aws(), bucket.bucket, "project"), service.role_arn,
        pacing=PACING,
    )  # fmt: skip
    canaries = Runs(platform)
    job = sagemaker_job("import os; print(sorted(os.environ.values())); raise SystemExit(1)")
    with pytest.raises(TrainingJobFailed) as failed:
        canaries.run(job)
    service.faults.deny("CreateTrainingJob", times=1)
    with pytest.raises(JobRefused) as refused:
        canaries.run(sagemaker_job(partition="2015-05-04"))
    assert canary not in f"{failed.value}{refused.value}{caplog.text}{canaries.lines}"
    assert not service.find(canary)
