"""The Pipes client for SageMaker in Dagster steps: what is reported, who stops what, what is retried.

Steps in processes of their own are killed and told to end, at each stage of a job.
"""

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.training.holding import job_tag
from sf_sagemaker.training.platform import JobStatus
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from standins.sagemaker.service import SageMakerService
from training.sagemaker_steps import Steps
from waiting import wait_until


@pytest.fixture(scope="module")
def aws(shared_service: SageMakerService) -> Iterator[Aws]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared_service.environment.items():
            patch.setenv(name, value)
        yield Aws()


@pytest.fixture
def steps(service: SageMakerService, tmp_path: Path) -> Iterator[Steps]:
    unique = uuid.uuid4().hex[:8]
    bucket = service.create_bucket(f"training-data-{unique}")
    steps = Steps(tmp_path, bucket, service.role_arn, f"m_{unique}")
    service.calls.clear()
    yield steps
    steps.go.touch()
    steps.hold.unlink(missing_ok=True)


@pytest.fixture
def platform(steps: Steps, aws: Aws) -> SageMakerTrainingPlatform:
    return steps.platform(aws)


@pytest.fixture
def instance(steps: Steps) -> Iterator[dg.DagsterInstance]:
    with steps.instance() as instance:
        yield instance


def created(service: SageMakerService) -> list[str]:
    return [
        call.parameters["TrainingJobName"]
        for call in service.calls.of("CreateTrainingJob")
        if call.status == 200
    ]


def messages(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [e.user_message for e in instance.all_logs(run_id) if not e.is_dagster_event]


def all_messages(instance: dg.DagsterInstance) -> list[str]:
    return [text for run in instance.get_runs() for text in messages(instance, run.run_id)]


def materializations(instance: dg.DagsterInstance) -> list[dict[str, object]]:
    records = instance.fetch_materializations(dg.AssetKey("model"), limit=10).records
    found = (record.asset_materialization for record in records)
    return [{k: v.value for k, v in one.metadata.items()} for one in found if one is not None]


def test_what_a_job_reports_arrives_while_it_trains(
    steps: Steps,
    platform: SageMakerTrainingPlatform,
    instance: dg.DagsterInstance,
    service: SageMakerService,
) -> None:
    job = steps.job()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(dg.materialize, [steps.asset(job, platform)], instance=instance)
        wait_until(lambda: "epoch 1" in all_messages(instance), 60)
        (run,) = instance.get_runs()
        assert job_tag(job.name(1)).items() <= run.tags.items()
        assert not [m for m in messages(instance, run.run_id) if "rmse" in m]
        steps.go.touch()
        assert running.result(60).success
    said = messages(instance, run.run_id)
    assert "rmse=0.5" in said
    assert [text for text in said if "InProgress (Training)" in text]
    assert not [text for text in said if "did not receive" in text]
    assert materializations(instance) == [{"job": job.name(1), "adopted": False, "rmse": 0.5}]
    (call,) = service.calls.of("CreateTrainingJob")
    assert all(len(value) <= 512 for value in call.parameters["Environment"].values())
    tags = {tag["Key"]: tag["Value"] for tag in call.parameters["Tags"]}
    assert tags["sf_sagemaker:run"] == run.run_id


def test_a_run_that_adopts_late_has_all_messages_from_the_first(
    steps: Steps,
    platform: SageMakerTrainingPlatform,
    instance: dg.DagsterInstance,
    capfd: pytest.CaptureFixture[str],
) -> None:
    steps.go.touch()
    job = steps.job()
    assert dg.materialize([steps.asset(job, platform)], instance=instance).success
    capfd.readouterr()
    adopting = dg.materialize([steps.asset(job, platform)], instance=instance)
    said = messages(instance, adopting.run_id)
    assert [text for text in said if text in ("epoch 1", "rmse=0.5")] == ["epoch 1", "rmse=0.5"]
    assert not [text for text in said if "did not receive" in text or "unexpected" in text]
    assert materializations(instance)[0] == {"job": job.name(1), "adopted": True, "rmse": 0.5}


def test_nothing_retries_a_program_that_failed(
    steps: Steps,
    platform: SageMakerTrainingPlatform,
    instance: dg.DagsterInstance,
    service: SageMakerService,
) -> None:
    """The asset has a RetryPolicy; run retries look at the tag."""
    steps.go.touch()
    job = steps.job(fails=True)
    tags = {"dagster/max_retries": "3"}
    ran = dg.materialize(
        [steps.asset(job, platform, retries=2)],
        instance=instance,
        raise_on_error=False,
        tags=tags,
    )
    assert not ran.success
    assert created(service) == [job.name(1)]
    (run,) = instance.get_runs()
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"
    assert run.tags.get("dagster/will_retry") != "true"
    (failure,) = [e for e in ran.all_node_events if e.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    text = error.to_string()
    assert "the rows are wrong" in text
    assert "Traceback" in text  # of the program, among its last lines
    assert "algo-1  epoch 1" in text
    assert "__dagster_pipes_version" not in text
    assert not [e for e in ran.all_node_events if e.is_step_up_for_retry]


def test_spot_restarts_leave_no_warning_behind(
    steps: Steps,
    platform: SageMakerTrainingPlatform,
    instance: dg.DagsterInstance,
    service: SageMakerService,
) -> None:
    service.faults.interrupt_spot(after_seconds=2)
    job = steps.job()
    job = replace(job, limits=replace(job.limits, spot=True))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(dg.materialize, [steps.asset(job, platform)], instance=instance)
        wait_until(lambda: all_messages(instance).count("epoch 1") == 2, 60)
        steps.go.touch()
        ran = running.result(60)
    assert ran.success
    said = messages(instance, ran.run_id)
    assert said.count("epoch 1") == 2
    assert not [text for text in said if "unexpected message" in text]


# ------------------------------------------------------------------- killed, told to end, cancelled


@pytest.fixture
def start(steps: Steps) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts steps in processes of their own, which are gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def one(*, retries: int = 0) -> subprocess.Popen[bytes]:
        with (steps.folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [*steps.arguments(), str(retries)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield one
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["before", "creating", "created", "polling", "completed"])
def test_a_step_that_dies_trains_once_all_the_same(
    steps: Steps,
    start: Callable[..., subprocess.Popen[bytes]],
    platform: SageMakerTrainingPlatform,
    instance: dg.DagsterInstance,
    service: SageMakerService,
    stage: str,
    signum: signal.Signals,
) -> None:
    job = steps.job()
    steps.hold.touch()
    calls = service.calls
    if stage == "before":
        service.faults.delay("HeadBucket", 3)
    if stage == "creating":
        service.faults.lose_answer("CreateTrainingJob", times=None)
    reached: Callable[[], object] = {
        "before": lambda: calls.count("HeadBucket"),
        "creating": lambda: calls.count("CreateTrainingJob"),
        "created": lambda: created(service),
        "polling": lambda: created(service) and calls.count("DescribeTrainingJob") > 5,
        "completed": steps.completed.exists,
    }[stage]
    if stage == "completed":
        steps.go.touch()
    process = start()
    wait_until(reached, 90)
    os.killpg(process.pid, signum)
    process.wait(60)
    assert process.returncode != 0
    service.faults.clear()
    assert not materializations(instance)
    for name in created(service)[:1]:
        # Neither signal is a cancellation: the job goes on.
        assert platform.describe(name).status in (JobStatus.IN_PROGRESS, JobStatus.COMPLETED)

    steps.go.touch()
    steps.hold.unlink()
    assert dg.materialize([steps.asset(job, platform)], instance=instance).success
    assert set(created(service)) == {job.name(1)}
    (made,) = materializations(instance)
    assert made["job"] == job.name(1)
    assert made["rmse"] == 0.5
    assert made["adopted"] is (stage != "before")


@pytest.mark.slow
def test_two_runs_at_once_share_one_job(
    steps: Steps,
    start: Callable[..., subprocess.Popen[bytes]],
    instance: dg.DagsterInstance,
    service: SageMakerService,
) -> None:
    # Both have looked for the job, and found none, before one of them creates it.
    service.faults.delay("DescribeTrainingJob", 2, times=2)
    processes = [start(), start()]
    wait_until(lambda: all_messages(instance).count("epoch 1") == 2, 90)
    steps.go.touch()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert created(service) == [steps.job().name(1)]
    assert sorted(bool(made["adopted"]) for made in materializations(instance)) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 2])
def test_a_cancelled_run_stops_its_job_at_once_and_starts_no_other(
    retries: int,
    steps: Steps,
    start: Callable[..., subprocess.Popen[bytes]],
    platform: SageMakerTrainingPlatform,
    instance: dg.DagsterInstance,
    service: SageMakerService,
) -> None:
    job = steps.job()
    process = start(retries=retries)
    wait_until(lambda: service.calls.count("GetLogEvents"), 90)
    (run,) = instance.get_runs()
    instance.report_run_canceling(run)
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: service.calls.count("StopTrainingJob"), 5)
    process.wait(60)
    wait_until(lambda: platform.describe(job.name(1)).status is JobStatus.STOPPED, 30)
    assert not materializations(instance)
    assert created(service) == [job.name(1)]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELED
