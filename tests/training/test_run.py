import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest

from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.errors import (
    TooManyAttempts,
    TrainingJobFailed,
    TrainingJobStopped,
    TrainingJobVanished,
)
from sf_sagemaker.training.job import TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.platform import JobDescription, JobStatus, LogLine
from sf_sagemaker.training.run import TRAINING, JobResult, run_job
from waiting import wait_until

NewJob = Callable[..., TrainingJob]

TRAIN = """
import os, pathlib
with pathlib.Path(os.environ["COUNT"]).open("a") as file:
    file.write("trained\\n")
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model.txt").write_text("a model")
"""


class Runs:
    """Runs jobs, and counts how often their script really ran."""

    def __init__(self, platform: LocalTrainingPlatform, folder: Path) -> None:
        self.platform = platform
        self.count = folder / "count"
        self.environment: dict[str, str] = {"COUNT": str(self.count)}

    @contextmanager
    def messages(self, name: str) -> Iterator[Mapping[str, str]]:
        yield self.environment

    def run(self, job: TrainingJob, **options) -> JobResult:
        return run_job(
            job,
            self.platform,
            TRAINING,
            **{"open_messages": self.messages, "poll_seconds": 0.02, **options},
        )

    @property
    def trained(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0


@pytest.fixture
def runs(platform: LocalTrainingPlatform, tmp_path: Path) -> Runs:
    return Runs(platform, tmp_path)


def jobs(platform: LocalTrainingPlatform) -> list[str]:
    return sorted(path.name for path in platform.storage.path("training-jobs").iterdir())


def test_a_job_is_created_waited_for_and_adopted_after(runs: Runs, new_job: NewJob) -> None:
    job = new_job(TRAIN)
    first = runs.run(job)
    assert (first.name, first.attempt, first.adopted) == (job.name(1), 1, False)
    assert first.description.status is JobStatus.COMPLETED

    second = runs.run(job)
    assert (second.name, second.adopted) == (first.name, True)
    assert second.description == first.description
    assert runs.trained == 1
    assert runs.run(new_job(TRAIN, eta="0.3")).name != first.name


def test_who_watches_is_told_everything_also_when_adopting(runs: Runs, new_job: NewJob) -> None:
    job = new_job("\n".join(f"print('line {number}')" for number in range(100)) + TRAIN)

    def watched() -> tuple[list[str], list[JobDescription], list[LogLine]]:
        names: list[str] = []
        statuses: list[JobDescription] = []
        lines: list[LogLine] = []
        runs.run(job, on_attempt=names.append, on_status=statuses.append, on_log=lines.append)
        return names, statuses, lines

    for names, statuses, lines in (watched(), watched()):
        assert names == [job.name(1)]
        assert statuses[-1].status is JobStatus.COMPLETED
        assert lines == [LogLine("algo-1", f"line {number}") for number in range(100)]


class OneLineAtATime(LocalTrainingPlatform):
    """Gives its log in pages, as CloudWatch does."""

    def read_log(self, name: str, cursor: str | None) -> tuple[Sequence[LogLine], str | None]:
        lines, _ = super().read_log(name, None)
        start = int(cursor or 0)
        page = lines[start : start + 1]
        return page, str(start + len(page))


def test_the_log_is_read_to_its_end_after_the_job_has_ended(
    storage: LocalStorage, new_job: NewJob, tmp_path: Path
) -> None:
    lines: list[str] = []
    runs = Runs(OneLineAtATime(storage), tmp_path)
    job = new_job("\n".join(f"print({number})" for number in range(50)) + TRAIN)
    runs.run(job, on_log=lambda line: lines.append(line.text))
    assert lines == [str(number) for number in range(50)]


def test_the_name_is_known_before_the_job_exists(runs: Runs, new_job: NewJob) -> None:
    class Restarted(Exception):
        pass

    def persist(name: str) -> None:
        assert not runs.platform.storage.path(f"training-jobs/{name}").exists()
        raise Restarted

    with pytest.raises(Restarted):
        runs.run(new_job(TRAIN), on_attempt=persist)


def test_messages_open_once_for_the_attempt_that_is_used(runs: Runs, new_job: NewJob) -> None:
    opened: list[str] = []

    @contextmanager
    def messages(name: str) -> Iterator[Mapping[str, str]]:
        opened.append(name)
        yield runs.environment
        assert runs.platform.describe(name).status.ended

    job = new_job(TRAIN)
    runs.platform.create(job, job.name(1), {})  # fails: it has no COUNT
    with pytest.raises(TrainingJobFailed):
        runs.run(job)
    runs.run(job, open_messages=messages)
    runs.run(job, open_messages=messages)
    assert opened == [job.name(2), job.name(2)]


def test_a_failed_job_says_why_and_makes_the_next_attempt(runs: Runs, new_job: NewJob) -> None:
    script = """
    import os, pathlib, sys
    for number in range(30):
        print("line", number)
    failure = pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"]).parent / "failure"
    failure.write_text("the target is constant")
    sys.exit(1)
    """
    job = new_job(script)
    with pytest.raises(TrainingJobFailed) as failed:
        runs.run(job)
    message = str(failed.value)
    assert job.name(1) in message
    assert "the target is constant" in message
    assert "line 29" in message
    assert "line 10" in message
    assert "line 9\n" not in message
    assert str(failed.value.description.log) in message

    with pytest.raises(TrainingJobFailed, match=job.name(2)):
        runs.run(job)
    with pytest.raises(TooManyAttempts, match=f"{job.name(1)} to {job.name(2)}"):
        runs.run(job, max_attempts=2)


def test_a_stopped_job_is_no_success_and_makes_the_next_attempt(
    runs: Runs, new_job: NewJob, beating
) -> None:
    job = new_job(beating.script)
    runs.environment |= beating.environment
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job)
        beating.wait_for_start()
        runs.platform.stop(job.name(1))
        with pytest.raises(TrainingJobStopped, match=job.name(1)):
            running.result(20)
    beating.release()
    assert runs.run(job).name == job.name(2)


def test_a_stopping_job_is_waited_for_then_the_next_attempt_runs(
    runs: Runs, new_job: NewJob, tmp_path: Path
) -> None:
    job = new_job(
        f"""
        import os, pathlib, signal, sys, time
        ended = pathlib.Path({str(tmp_path / "ended")!r})
        if ended.exists():
            sys.exit()
        def end(*_):
            time.sleep(0.5)
            ended.touch()
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print("ready")
        time.sleep(60)
        """
    )
    platform = runs.platform
    platform.create(job, job.name(1), {})
    wait_until(lambda: len(platform.read_log(job.name(1), None)[0]) == 1)
    platform.stop(job.name(1))
    result = runs.run(job)
    assert (result.attempt, result.adopted) == (2, False)
    first, second = platform.describe(job.name(1)), platform.describe(job.name(2))
    assert first.status is JobStatus.STOPPED
    assert first.ended_at is not None
    assert first.ended_at <= second.created_at


def test_a_lost_artifact_makes_the_next_attempt(runs: Runs, new_job: NewJob) -> None:
    job = new_job(TRAIN)
    runs.run(job)
    runs.platform.storage.delete(f"training-jobs/{job.name(1)}/output")
    assert runs.run(job).name == job.name(2)
    assert runs.run(job) == JobResult(job.name(2), 2, True, runs.platform.describe(job.name(2)))


def test_two_runs_at_once_train_once(runs: Runs, new_job: NewJob, beating) -> None:
    job = new_job(beating.script)
    runs.environment |= beating.environment
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(runs.run, job) for _ in range(4)]
        beating.wait_for_start()
        beating.release()
        results = [future.result(20) for future in running]
    assert {result.name for result in results} == {job.name(1)}
    assert sorted(result.adopted for result in results) == [False, True, True, True]
    assert jobs(runs.platform) == [job.name(1)]


def test_two_that_create_one_name_at_once_train_once(runs: Runs, new_job: NewJob) -> None:
    """Both have looked before either creates, so that only the claim can tell them apart."""
    job = new_job(TRAIN)
    both_looked = [Event(), Event()]

    @contextmanager
    def meet(mine: Event, other: Event) -> Iterator[Mapping[str, str]]:
        mine.set()
        assert other.wait(20)
        yield runs.environment

    with ThreadPoolExecutor(2) as pool:
        one, two = both_looked
        running = [
            pool.submit(runs.run, job, open_messages=lambda name: meet(one, two)),
            pool.submit(runs.run, job, open_messages=lambda name: meet(two, one)),
        ]
        results = [future.result(20) for future in running]
    assert sorted(result.adopted for result in results) == [False, True]
    assert runs.trained == 1


def test_force_trains_anew_but_a_retry_of_it_does_not(runs: Runs, new_job: NewJob) -> None:
    job = new_job(TRAIN)
    runs.run(job)
    asked = datetime.now(UTC)
    forced = runs.run(job, not_before=asked)
    assert (forced.attempt, forced.adopted) == (2, False)
    retried = runs.run(job, not_before=asked)
    assert (retried.attempt, retried.adopted) == (2, True)
    assert runs.trained == 2


def test_force_does_not_adopt_a_job_that_runs_already(runs: Runs, new_job: NewJob, beating) -> None:
    job = new_job(beating.script)
    runs.platform.create(job, job.name(1), beating.environment)
    beating.wait_for_start()
    runs.environment |= {**beating.environment, "GO": os.devnull}
    assert runs.run(job, not_before=datetime.now(UTC)).attempt == 2
    assert runs.platform.describe(job.name(1)).status is JobStatus.IN_PROGRESS


def test_a_job_that_is_deleted_meanwhile_is_an_error(runs: Runs, new_job: NewJob, beating) -> None:
    job = new_job(beating.script)
    runs.environment |= beating.environment
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job)
        beating.wait_for_start()
        folder = runs.platform.storage.path(f"training-jobs/{job.name(1)}")
        folder.rename(folder.with_name("elsewhere"))
        with pytest.raises(TrainingJobVanished, match=job.name(1)):
            running.result(20)
        beating.release()


class Interrupted(BaseException):
    """As Dagster's interrupt, no Exception."""


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, Interrupted])
@pytest.mark.parametrize("wanted", [True, False])
def test_an_interrupted_job_goes_on_unless_nobody_wants_it(
    runs: Runs,
    new_job: NewJob,
    beating,
    interrupt: type[BaseException],
    wanted: bool,
) -> None:
    job = new_job(beating.script)
    runs.environment |= beating.environment
    asked: list[str] = []

    def should_stop(name: str) -> bool:
        asked.append(name)
        return not wanted

    def on_log(line: LogLine) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        runs.run(job, should_stop=should_stop, on_log=on_log)
    assert asked == [job.name(1)]
    if wanted:
        beating.release()
        assert runs.run(job).adopted
    else:
        wait_until(lambda: runs.platform.describe(job.name(1)).status.ended)
        assert runs.platform.describe(job.name(1)).status is JobStatus.STOPPED
        assert beating.silent()


def test_an_ended_job_is_not_asked_about(runs: Runs, new_job: NewJob) -> None:
    def should_stop(name: str) -> bool:
        raise AssertionError("the job has ended")

    runs.run(new_job(TRAIN), should_stop=should_stop)
    with pytest.raises(TrainingJobFailed):
        runs.run(new_job("raise SystemExit(1)"), should_stop=should_stop)


# A process that runs the job that this test runs too.
ANOTHER_RUN = """
import json, sys
from pathlib import Path
from contextlib import nullcontext
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.job import Program, TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.run import TRAINING, run_job

root, script, environment = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
job = TrainingJob(
    model="house_prices", partition="2015-04-27",
    program=Program(script.name, {script.name: script}),
    image="test", dataset_fingerprint="abc", channels=(), hyperparameters={}, seed=7,
)
result = run_job(
    job, LocalTrainingPlatform(LocalStorage(root)), TRAINING,
    open_messages=lambda name: nullcontext(environment), poll_seconds=0.02,
)
print(result.name, result.adopted)
"""


@pytest.fixture
def another_run(runs: Runs, tmp_path: Path) -> Callable[[Mapping[str, str]], subprocess.Popen[str]]:
    def start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
        root = str(runs.platform.storage.root)
        script = str(tmp_path / "train.py")
        return subprocess.Popen(
            [sys.executable, "-c", ANOTHER_RUN, root, script, json.dumps(environment)],
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_killed_run_leaves_its_job_to_the_next(
    runs: Runs, new_job: NewJob, beating, another_run
) -> None:
    job = new_job(beating.script)
    killed = another_run(beating.environment)
    beating.wait_for_start()
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(20) == -signal.SIGKILL

    lines: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runs.run, job, on_log=lambda line: lines.append(line.text))
        assert not beating.silent()
        beating.release()
        result = running.result(20)
    killed.communicate()
    assert (result.name, result.adopted) == (job.name(1), True)
    assert lines == ["first line", "last line"]
    assert jobs(runs.platform) == [job.name(1)]


def test_two_processes_at_once_train_once(
    runs: Runs, new_job: NewJob, beating, another_run
) -> None:
    job = new_job(beating.script)
    processes = [another_run(beating.environment) for _ in range(2)]
    beating.wait_for_start()
    beating.release()
    said = [process.communicate(timeout=20)[0].split() for process in processes]
    assert sorted(said) == [[job.name(1), "False"], [job.name(1), "True"]]
    assert jobs(runs.platform) == [job.name(1)]


def test_after_a_killed_supervisor_the_next_attempt_runs_alone(
    runs: Runs, new_job: NewJob, beating
) -> None:
    job = new_job("import os; print(os.getppid())\n" + beating.script)
    platform = runs.platform
    platform.create(job, job.name(1), beating.environment)
    beating.wait_for_start()
    os.kill(int(platform.read_log(job.name(1), None)[0][0].text), signal.SIGKILL)
    wait_until(lambda: platform.describe(job.name(1)).status is JobStatus.FAILED)
    assert beating.silent()
    beating.release()
    runs.environment |= beating.environment
    assert runs.run(job).attempt == 2
    assert beating.silent()


def test_an_attempt_goes_on_from_the_checkpoints_of_the_one_before(
    runs: Runs, new_job: NewJob, tmp_path: Path
) -> None:
    job = new_job(
        """
        import os, pathlib, sys
        model = pathlib.Path(os.environ["SM_MODEL_DIR"])
        checkpoint = model.parent / "checkpoints" / "epoch"
        if not checkpoint.exists():
            checkpoint.write_text("1")
            sys.exit("out of memory")
        (model / "model.txt").write_text("from epoch " + checkpoint.read_text())
        """
    )
    with pytest.raises(TrainingJobFailed, match="out of memory"):
        runs.run(job)
    result = runs.run(job)
    model = runs.platform.fetch_artifact(result.name, tmp_path / "model")
    assert (model / "model.txt").read_text() == "from epoch 1"
    shutil.rmtree(model)
