import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from sf_sagemaker.training.errors import TrainingJobFailed
from sf_sagemaker.training.holding import job_tag
from sf_sagemaker.training.job import TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.pipes import FileMessages, PipesTrainingClient
from sf_sagemaker.training.platform import JobStatus
from waiting import wait_until

NewJob = Callable[..., TrainingJob]


# A run in a process of its own, as a run worker's, of the job that the test runs too.
ANOTHER_RUN = """
import dagster as dg, sys
from pathlib import Path
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.job import Program, TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.pipes import FileMessages, PipesTrainingClient

folder = Path(sys.argv[1])
platform = LocalTrainingPlatform(LocalStorage(folder / "storage"))
job = TrainingJob(
    model="house_prices", partition="2015-04-27",
    program=Program("train.py", {"train.py": folder / "train.py"}),
    image="test", dataset_fingerprint="abc", channels=(), hyperparameters={}, seed=7,
)

@dg.asset(name="model")
def model(context: dg.AssetExecutionContext):
    client = PipesTrainingClient(FileMessages(platform.message_path), poll_seconds=0.02)
    invocation = client.run(context=context, job=job, platform=platform)
    assert invocation.result.name == job.name(1)
    return invocation.get_materialize_result()

with dg.DagsterInstance.local_temp(
    str(folder), overrides={"telemetry": {"enabled": False}}
) as instance:
    dg.materialize([model], instance=instance)
"""


class Steps:
    """Materializes an asset that trains a job, with its runs in a real instance."""

    def __init__(self, platform: LocalTrainingPlatform, folder: Path) -> None:
        self.platform = platform
        self.instance = dg.DagsterInstance.local_temp(
            str(folder), overrides={"telemetry": {"enabled": False}}
        )
        self.folder = folder
        self.go = folder / "go"
        self.started = folder / "started"

    def script(self, end: str = "") -> str:
        return f"""
import os, pathlib, sys, time
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    print("a line of the log")
    pipes.log.info("epoch 1")
    pathlib.Path({str(self.started)!r}).touch()
    while not pathlib.Path({str(self.go)!r}).exists():
        time.sleep(0.01)
    pipes.log.info("epoch 2")
    pipes.report_asset_materialization(metadata={{"rmse": 0.5}})
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model.txt").write_text("a model")
{end}
"""

    def materialize(self, job: TrainingJob, *, force: bool = False, tags=None):
        @dg.asset(name="model")
        def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            client = PipesTrainingClient(
                FileMessages(self.platform.message_path), poll_seconds=0.02
            )
            invocation = client.run(context=context, job=job, platform=self.platform, force=force)
            result = invocation.get_materialize_result()
            metadata = {"job": invocation.result.name, "adopted": invocation.result.adopted}
            return dg.MaterializeResult(metadata={**(result.metadata or {}), **metadata})

        return dg.materialize([model], instance=self.instance, tags=tags, raise_on_error=True)

    def materialize_in_another_process(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", ANOTHER_RUN, str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def messages(self, run_id: str) -> list[str]:
        entries = self.instance.all_logs(run_id)
        return [entry.user_message for entry in entries if not entry.is_dagster_event]

    def metadata(self, run_id: str) -> dict[str, object]:
        (event,) = (
            entry.dagster_event
            for entry in self.instance.all_logs(run_id)
            if entry.dagster_event and entry.dagster_event.is_step_materialization
        )
        return {name: value.value for name, value in event.materialization.metadata.items()}

    def only_run(self) -> dg.DagsterRun:
        (run,) = self.instance.get_runs()
        return run

    def latest_run(self) -> dg.DagsterRun:
        return self.instance.get_runs(limit=1)[0]


@pytest.fixture
def steps(platform: LocalTrainingPlatform, tmp_path: Path) -> Iterator[Steps]:
    steps = Steps(platform, tmp_path)
    yield steps
    steps.go.touch()
    steps.instance.dispose()


def test_what_a_job_reports_arrives_while_it_trains(steps: Steps, new_job: NewJob) -> None:
    job = new_job(steps.script())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(steps.materialize, job)
        wait_until(steps.started.exists)
        run = steps.only_run()
        wait_until(lambda: "epoch 1" in steps.messages(run.run_id))
        # The name is stored before the end, where a restart of the run finds it.
        assert job_tag(job.name(1)).items() <= steps.only_run().tags.items()
        assert "epoch 2" not in steps.messages(run.run_id)
        steps.go.touch()
        assert running.result(20).success
    assert "epoch 2" in steps.messages(run.run_id)
    assert steps.metadata(run.run_id) == {"rmse": 0.5, "job": job.name(1), "adopted": False}


def test_a_run_that_adopts_late_has_all_messages_from_the_first(
    steps: Steps, new_job: NewJob, capfd: pytest.CaptureFixture[str]
) -> None:
    job = new_job(steps.script())
    steps.go.touch()
    assert steps.materialize(job).success
    reported = steps.platform.message_path(job.name(1)).read_text()
    capfd.readouterr()

    adopting = steps.materialize(job)
    messages = steps.messages(adopting.run_id)
    assert [text for text in messages if text.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert not [text for text in messages if "did not receive" in text]
    assert steps.metadata(adopting.run_id) == {"rmse": 0.5, "job": job.name(1), "adopted": True}
    assert steps.platform.message_path(job.name(1)).read_text() == reported


def test_two_runs_read_the_messages_of_one_job_at_once(steps: Steps, new_job: NewJob) -> None:
    job = new_job(steps.script())
    other = steps.materialize_in_another_process()
    wait_until(steps.started.exists)
    first = steps.only_run()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(steps.materialize, job)
        wait_until(
            lambda: (
                len(steps.instance.get_runs()) == 2
                and all("epoch 1" in steps.messages(r.run_id) for r in steps.instance.get_runs())
            )
        )
        steps.go.touch()
        second = running.result(20)
    assert other.wait(20) == 0
    assert "epoch 2" in steps.messages(first.run_id)
    assert "epoch 2" in steps.messages(second.run_id)
    assert steps.metadata(second.run_id)["adopted"] is True


def test_the_log_of_the_job_is_the_steps_output(
    steps: Steps, new_job: NewJob, capfd: pytest.CaptureFixture[str]
) -> None:
    steps.go.touch()
    run = steps.materialize(new_job(steps.script()))
    (captured,) = (
        entry.dagster_event.logs_captured_data
        for entry in steps.instance.all_logs(run.run_id)
        if entry.dagster_event and entry.dagster_event.event_type_value == "LOGS_CAPTURED"
    )
    log_key = [run.run_id, "compute_logs", captured.file_key]
    output = steps.instance.compute_log_manager.get_log_data(log_key).stdout or b""
    assert b"a line of the log" in output


def test_a_failed_job_fails_the_step_and_a_retry_trains_anew(steps: Steps, new_job: NewJob) -> None:
    steps.go.touch()
    job = new_job(steps.script(end="sys.exit('out of memory')"))
    for attempt in (1, 2):
        with pytest.raises(TrainingJobFailed, match=f"(?s){job.name(attempt)}.*out of memory"):
            steps.materialize(job)
        run_id = steps.latest_run().run_id
        assert [text for text in steps.messages(run_id) if text.startswith("epoch")] == [
            "epoch 1",
            "epoch 2",
        ]


def test_force_trains_anew_and_a_retry_of_that_run_adopts(steps: Steps, new_job: NewJob) -> None:
    steps.go.touch()
    job = new_job(steps.script())
    steps.materialize(job)
    forced = steps.materialize(job, force=True)
    assert steps.metadata(forced.run_id)["job"] == job.name(2)
    again = steps.materialize(
        job,
        force=True,
        tags={"dagster/root_run_id": forced.run_id, "dagster/parent_run_id": forced.run_id},
    )
    assert steps.metadata(again.run_id) == {"rmse": 0.5, "job": job.name(2), "adopted": True}
    assert steps.metadata(steps.materialize(job, force=True).run_id)["job"] == job.name(3)


@pytest.fixture
def interrupt_once_training(steps: Steps) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Interrupts this process while its run waits for the job, as a run worker is interrupted."""
    with ThreadPoolExecutor(1) as pool:

        def interrupt(first: Callable[[], None]) -> None:
            runs = len(steps.instance.get_runs())
            wait_until(lambda: len(steps.instance.get_runs()) > runs)
            wait_until(lambda: "epoch 1" in steps.messages(steps.latest_run().run_id))
            first()
            os.kill(os.getpid(), signal.SIGINT)

        def start(first: Callable[[], None]) -> None:
            pool.submit(interrupt, first)

        yield start


def test_cancelling_the_run_stops_its_job(
    steps: Steps, new_job: NewJob, interrupt_once_training
) -> None:
    job = new_job(steps.script())
    interrupt_once_training(lambda: steps.instance.report_run_canceling(steps.only_run()))
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        steps.materialize(job)
    wait_until(lambda: steps.platform.describe(job.name(1)).status.ended)
    assert steps.platform.describe(job.name(1)).status is JobStatus.STOPPED


def test_any_other_interruption_leaves_the_job_for_the_next_run(
    steps: Steps, new_job: NewJob, interrupt_once_training
) -> None:
    job = new_job(steps.script())
    interrupt_once_training(lambda: None)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        steps.materialize(job)
    assert steps.platform.describe(job.name(1)).status is JobStatus.IN_PROGRESS
    steps.go.touch()
    adopting = steps.materialize(job)
    assert steps.metadata(adopting.run_id) == {"rmse": 0.5, "job": job.name(1), "adopted": True}


def test_a_job_that_another_run_waits_for_outlives_a_cancelled_run(
    steps: Steps, new_job: NewJob, interrupt_once_training
) -> None:
    job = new_job(steps.script())
    other = steps.materialize_in_another_process()
    wait_until(steps.started.exists)
    interrupt_once_training(lambda: steps.instance.report_run_canceling(steps.latest_run()))
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        steps.materialize(job)
    assert job_tag(job.name(1)).items() <= steps.latest_run().tags.items()
    assert steps.platform.describe(job.name(1)).status is JobStatus.IN_PROGRESS
    steps.go.touch()
    assert other.wait(20) == 0
    assert steps.platform.describe(job.name(1)).status is JobStatus.COMPLETED
