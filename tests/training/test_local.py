import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sf_sagemaker.storage import KeyMissing, LocalStorage
from sf_sagemaker.training.errors import ArtifactCorrupt
from sf_sagemaker.training.job import Channel, InvalidTrainingJob, Program, TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.local_supervisor import pack
from sf_sagemaker.training.platform import (
    ArtifactMissing,
    JobDescription,
    JobNameTaken,
    JobNotFound,
    JobStatus,
    LogLine,
)
from waiting import wait_until

NewJob = Callable[..., TrainingJob]

# Reports what a container sees, as the model.
REPORT = """
import json, os, pathlib, sys
home = pathlib.Path(os.environ["SM_MODEL_DIR"]).parent
report = {
    "environment": dict(os.environ),
    "arguments": sys.argv[1:],
    "folder": os.getcwd(),
    "config": {
        path.stem: json.loads(path.read_text()) for path in home.glob("input/config/*.json")
    },
    "data": {
        path.relative_to(home / "input/data").as_posix(): path.read_text()
        for path in home.glob("input/data/**/*") if path.is_file()
    },
}
host = os.environ["SM_CURRENT_HOST"]
(home / "model" / f"{host}.json").write_text(json.dumps(report))
(home / "checkpoints" / host).write_text("a checkpoint")
"""


@pytest.fixture
def finish(platform: LocalTrainingPlatform) -> Callable[..., JobDescription]:
    """Starts a job and waits for its end."""

    def run(
        job: TrainingJob, environment: dict[str, str] | None = None, attempt: int = 1
    ) -> JobDescription:
        name = job.name(attempt)
        platform.create(job, name, environment or {})
        wait_until(lambda: platform.describe(name).status.ended)
        return platform.describe(name)

    return run


Finish = Callable[..., JobDescription]


def reports(platform: LocalTrainingPlatform, name: str, folder: Path) -> dict[str, dict]:
    model = platform.fetch_artifact(name, folder)
    return {path.stem: json.loads(path.read_text()) for path in model.iterdir()}


def test_a_job_completes_with_its_model(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish, tmp_path: Path
) -> None:
    job = new_job(
        """
        import os, pathlib
        folder = pathlib.Path(os.environ["SM_MODEL_DIR"]) / "sub"
        folder.mkdir()
        (folder / "model.txt").write_text("a model")
        print("trained")
        """
    )
    before = datetime.now(UTC)
    description = finish(job)
    name = job.name(1)

    assert description.name == name
    assert description.status is JobStatus.COMPLETED
    assert description.secondary_status == "Completed"
    assert description.started_at
    assert description.ended_at
    times = [before, description.created_at, description.started_at, description.ended_at]
    assert times == sorted(times)
    assert description.failure_reason is None
    assert description.artifact_uri is not None
    assert description.artifact_uri.endswith(f"{name}/output/model.tar.gz")
    assert description.log is not None
    assert Path(description.log).read_text() == "trained\n"
    assert platform.has_artifact(name)
    assert (platform.fetch_artifact(name, tmp_path) / "sub" / "model.txt").read_text() == "a model"


def test_the_layout_and_environment_are_sagemakers(
    platform: LocalTrainingPlatform,
    new_job: NewJob,
    finish: Finish,
    storage: LocalStorage,
    tmp_path: Path,
) -> None:
    job = new_job(
        REPORT,
        channels=(Channel("train", "data/train"), Channel("schema", "data/schema.json")),
        eta="0.1",
        max_depth="6",
    )
    finish(job, {"EXTRA": "given"})
    report = reports(platform, job.name(1), tmp_path)["algo-1"]
    environment = report["environment"]
    home = storage.path(f"training-jobs/{job.name(1)}/hosts/algo-1")

    assert report["arguments"] == ["--eta", "0.1", "--max_depth", "6"]
    assert report["folder"] == str(storage.path(f"training-jobs/{job.name(1)}/code"))
    assert report["data"] == {
        **{f"train/shard={shard:03}/part.txt": f"rows of {shard}" for shard in range(5)},
        "schema/schema.json": "{}",
    }
    assert report["config"]["hyperparameters"] == {"eta": "0.1", "max_depth": "6"}
    assert report["config"]["resourceconfig"]["hosts"] == ["algo-1"]
    assert report["config"]["inputdataconfig"]["train"]["S3DistributionType"] == "FullyReplicated"
    expected = {
        "EXTRA": "given",
        "PYTHONUNBUFFERED": "1",
        "SM_MODEL_DIR": str(home / "model"),
        "SM_OUTPUT_DATA_DIR": str(home / "output" / "data"),
        "SM_INPUT_DIR": str(home / "input"),
        "SM_CHANNEL_TRAIN": str(home / "input" / "data" / "train"),
        "SM_CHANNEL_SCHEMA": str(home / "input" / "data" / "schema"),
        "SM_HP_ETA": "0.1",
        "SM_HP_MAX_DEPTH": "6",
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_CPUS": str(os.cpu_count()),
        "SM_NUM_GPUS": "0",
        "TRAINING_JOB_NAME": job.name(1),
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert json.loads(environment["SM_HPS"]) == {"eta": "0.1", "max_depth": "6"}
    assert json.loads(environment["SM_CHANNELS"]) == ["schema", "train"]
    assert json.loads(environment["SM_HOSTS"]) == ["algo-1"]
    assert json.loads(environment["SM_TRAINING_ENV"])["hyperparameters"]["eta"] == "0.1"
    assert "SF_SAGEMAKER_TRACKER_PORT" not in environment
    assert storage.read(f"{job.checkpoint_key}/algo-1") == b"a checkpoint"


def test_sharded_files_are_dealt_to_the_hosts(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish, tmp_path: Path
) -> None:
    job = new_job(
        REPORT,
        hosts=3,
        channels=(Channel("train", "data/train", "sharded"), Channel("all", "data/train")),
    )
    assert finish(job).status is JobStatus.COMPLETED
    by_host = reports(platform, job.name(1), tmp_path)

    shards = {
        host: sorted(text for path, text in report["data"].items() if path.startswith("train/"))
        for host, report in by_host.items()
    }
    assert shards == {
        "algo-1": ["rows of 0", "rows of 3"],
        "algo-2": ["rows of 1", "rows of 4"],
        "algo-3": ["rows of 2"],
    }
    for host, report in by_host.items():
        environment = report["environment"]
        assert sum(path.startswith("all/") for path in report["data"]) == 5
        assert environment["SM_CURRENT_HOST"] == host
        assert environment["SM_NUM_CPUS"] == str(max(1, (os.cpu_count() or 1) // 3))
        assert environment["SF_SAGEMAKER_TRACKER_URI"] == "127.0.0.1"
        assert report["config"]["resourceconfig"]["current_host"] == host
        assert report["config"]["inputdataconfig"]["train"]["S3DistributionType"] == (
            "ShardedByS3Key"
        )
    ports = {report["environment"]["SF_SAGEMAKER_TRACKER_PORT"] for report in by_host.values()}
    assert len(ports) == 1


def test_a_host_without_files_has_an_empty_channel(
    new_job: NewJob, finish: Finish, platform: LocalTrainingPlatform, tmp_path: Path
) -> None:
    script = REPORT + '\nassert pathlib.Path(os.environ["SM_CHANNEL_SCHEMA"]).is_dir()\n'
    job = new_job(script, hosts=2, channels=(Channel("schema", "data/schema.json", "sharded"),))
    assert finish(job).status is JobStatus.COMPLETED
    by_host = reports(platform, job.name(1), tmp_path)
    assert by_host["algo-1"]["data"] == {"schema/schema.json": "{}"}
    assert by_host["algo-2"]["data"] == {}


def test_secrets_of_the_caller_do_not_reach_the_job(
    platform: LocalTrainingPlatform,
    new_job: NewJob,
    finish: Finish,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "SNOWFLAKE_PASSWORD", "HF_TOKEN", "SOMETHING_UNLISTED")
    for name in secrets:
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    job = new_job(REPORT)
    finish(job)
    environment = reports(platform, job.name(1), tmp_path)["algo-1"]["environment"]
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert not set(secrets) & set(environment)
    written = platform.storage.path(f"training-jobs/{job.name(1)}").rglob("*")
    assert not [path for path in written if path.is_file() and b"hush-hush" in path.read_bytes()]


def test_a_failure_file_is_the_reason(new_job: NewJob, finish: Finish) -> None:
    description = finish(
        new_job(
            """
            import os, pathlib, sys
            failure = pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"]).parent / "failure"
            failure.write_text("the target is constant " + "x" * 2000)
            sys.exit(1)
            """
        )
    )
    assert description.status is JobStatus.FAILED
    assert description.secondary_status == "Failed"
    assert description.failure_reason is not None
    assert description.failure_reason.startswith("the target is constant xxx")
    assert len(description.failure_reason) == 1024
    assert description.artifact_uri is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit(3)", "algo-1 exited with code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9 (SIGKILL)"),
    ],
)
def test_without_one_the_exit_is_the_reason(
    new_job: NewJob, finish: Finish, script: str, reason: str
) -> None:
    assert reason in (finish(new_job(script)).failure_reason or "")


def test_a_host_that_fails_ends_the_others(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish
) -> None:
    job = new_job(
        """
        import os, signal, sys, time
        if os.environ["SM_CURRENT_HOST"] == "algo-2":
            time.sleep(0.3)
            sys.exit("no rows")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
        time.sleep(60)
        """,
        hosts=3,
    )
    description = finish(job)
    assert description.status is JobStatus.FAILED
    assert description.failure_reason is not None
    assert description.failure_reason.startswith("algo-2 exited with code 1")
    lines, _ = platform.read_log(job.name(1), None)
    assert lines == [
        LogLine("algo-1", "told to end"),
        LogLine("algo-2", "no rows"),
        LogLine("algo-3", "told to end"),
    ]
    assert not platform.has_artifact(job.name(1))


def test_an_interpreter_that_does_not_exist_is_a_failed_job(
    storage: LocalStorage, new_job: NewJob
) -> None:
    platform = LocalTrainingPlatform(storage, python="/no/such/python")
    job = new_job()
    platform.create(job, job.name(1), {})
    wait_until(lambda: platform.describe(job.name(1)).status.ended)
    description = platform.describe(job.name(1))
    assert description.status is JobStatus.FAILED
    assert description.failure_reason is not None
    assert "/no/such/python" in description.failure_reason


def test_a_name_is_taken_once_and_for_all(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish
) -> None:
    job = new_job("raise SystemExit(1)")
    finish(job)
    with pytest.raises(JobNameTaken, match=job.name(1)):
        platform.create(job, job.name(1), {})


def test_bad_input_claims_nothing(platform: LocalTrainingPlatform, new_job: NewJob) -> None:
    job = new_job(channels=(Channel("train", "data/trian"),))
    with pytest.raises(KeyMissing, match=r"channel 'train'.*data/trian"):
        platform.create(job, job.name(1), {})
    for wrong, error in [
        (new_job(hosts=0), "instance_count"),
        (new_job(**{"a b": "1"}), "hyperparameter name 'a b'"),
        (new_job(channels=(Channel("../x", "data/train"),)), "channel name"),
        (new_job(channels=(Channel("a", "data/train"),) * 2), "two channels"),
        (
            replace(
                job,
                program=Program(
                    "train.py", {"train.py": Path(__file__), "../up.py": Path(__file__)}
                ),
            ),
            "'../up.py'",
        ),
    ]:
        with pytest.raises(InvalidTrainingJob, match=error):
            platform.create(wrong, job.name(1), {})
    with pytest.raises(JobNotFound):
        platform.describe(job.name(1))


def test_a_job_that_nobody_created_is_not_found(platform: LocalTrainingPlatform) -> None:
    for call in (
        lambda: platform.describe("nothing"),
        lambda: platform.stop("nothing"),
        lambda: platform.read_log("nothing", None),
        lambda: platform.fetch_artifact("nothing", Path("folder")),
    ):
        with pytest.raises(JobNotFound, match="nothing"):
            call()
    assert not platform.has_artifact("nothing")


def test_the_log_gives_whole_lines_while_the_job_runs_and_the_rest_at_its_end(
    platform: LocalTrainingPlatform, new_job: NewJob, tmp_path: Path
) -> None:
    job = new_job(
        f"""
        import pathlib, sys, time
        print("whole")
        sys.stderr.write("half of a li")
        sys.stderr.flush()
        pathlib.Path({str(tmp_path / "written")!r}).touch()
        while not pathlib.Path({str(tmp_path / "go")!r}).exists():
            time.sleep(0.01)
        sys.stderr.write("ne\\nünfinished")
        """
    )
    name = job.name(1)
    platform.create(job, name, {})
    wait_until((tmp_path / "written").exists)
    lines, cursor = platform.read_log(name, None)
    assert lines == [LogLine("algo-1", "whole")]
    assert platform.read_log(name, cursor) == ([], cursor)

    (tmp_path / "go").touch()
    wait_until(lambda: platform.describe(name).status.ended)
    lines, cursor = platform.read_log(name, cursor)
    assert lines == [LogLine("algo-1", "half of a line"), LogLine("algo-1", "ünfinished")]
    assert platform.read_log(name, cursor) == ([], cursor)
    assert [line.text for line in platform.read_log(name, None)[0]] == [
        "whole",
        "half of a line",
        "ünfinished",
    ]


def test_stop_lets_the_program_end(platform: LocalTrainingPlatform, new_job: NewJob) -> None:
    job = new_job(
        """
        import signal, sys, time
        def end(*_):
            print("saved a checkpoint")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("ready")
        time.sleep(60)
        """
    )
    name = job.name(1)
    platform.create(job, name, {})
    wait_until(lambda: len(platform.read_log(name, None)[0]) == 1)
    assert platform.describe(name).status is JobStatus.IN_PROGRESS
    platform.stop(name)
    assert platform.describe(name).status in (JobStatus.STOPPING, JobStatus.STOPPED)
    wait_until(lambda: platform.describe(name).status.ended)

    description = platform.describe(name)
    assert (description.status, description.secondary_status) == (JobStatus.STOPPED, "Stopped")
    assert platform.read_log(name, None)[0][-1].text == "saved a checkpoint"
    assert not platform.has_artifact(name)


def test_stop_leaves_a_job_that_has_ended(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish
) -> None:
    job = new_job()
    before = finish(job)
    platform.stop(job.name(1))
    assert platform.describe(job.name(1)) == before
    assert before.status is JobStatus.COMPLETED


# Neither it nor its child ends when told to.
STUBBORN = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
while True:
    with pathlib.Path(os.environ["BEATS"]).open("a") as file:
        file.write(".")
    time.sleep(0.02)
"""


def test_a_program_that_does_not_end_is_killed_after_the_grace(
    storage: LocalStorage, new_job: NewJob, beating
) -> None:
    platform = LocalTrainingPlatform(storage, grace_seconds=0.3)
    job = new_job(STUBBORN)
    platform.create(job, job.name(1), beating.environment)
    beating.wait_for_start()
    platform.stop(job.name(1))
    wait_until(lambda: platform.describe(job.name(1)).status is JobStatus.STOPPED)
    assert beating.silent()


def test_the_time_limit_stops_a_job(new_job: NewJob, finish: Finish, beating) -> None:
    job = new_job(beating.script, max_runtime=timedelta(seconds=0.5))
    description = finish(job, beating.environment)
    assert description.status is JobStatus.STOPPED
    assert description.secondary_status == "MaxRuntimeExceeded"
    assert beating.silent()


def kill_supervisor(platform: LocalTrainingPlatform, name: str, signum: int) -> None:
    """The first line of the job's log is the supervisor's process id."""
    os.kill(int(platform.read_log(name, None)[0][0].text), signum)


def test_a_killed_supervisor_takes_its_hosts_along(
    platform: LocalTrainingPlatform, new_job: NewJob, beating
) -> None:
    job = new_job("import os; print(os.getppid())\n" + STUBBORN, hosts=2)
    name = job.name(1)
    platform.create(job, name, beating.environment)
    beating.wait_for_start()
    kill_supervisor(platform, name, signal.SIGKILL)
    wait_until(lambda: platform.describe(name).status.ended)

    # Only once nothing of it runs any more is it said to have failed.
    assert beating.silent()
    description = platform.describe(name)
    assert description.status is JobStatus.FAILED
    assert description.failure_reason is not None
    assert description.failure_reason.startswith("the supervising process died")
    assert platform.describe(name) == description  # as recorded, not anew each time


def test_a_job_lives_as_long_as_any_of_its_hosts(
    platform: LocalTrainingPlatform, new_job: NewJob, beating
) -> None:
    """Even where nobody is left to end them, no next attempt starts beside them."""
    script = "import os; print(os.getppid()); print(os.getpgid(0))\n" + beating.script
    job = new_job(script)
    name = job.name(1)
    platform.create(job, name, beating.environment)
    beating.wait_for_start()
    supervisor, watchdog = (int(line.text) for line in platform.read_log(name, None)[0][:2])
    os.kill(watchdog, signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    assert not beating.silent()
    assert platform.describe(name).status is JobStatus.IN_PROGRESS
    beating.release()
    wait_until(lambda: platform.describe(name).status is JobStatus.FAILED)


def test_a_supervisor_that_is_told_to_end_stops_the_job(
    platform: LocalTrainingPlatform, new_job: NewJob, beating
) -> None:
    job = new_job("import os; print(os.getppid())\n" + beating.script)
    name = job.name(1)
    platform.create(job, name, beating.environment)
    beating.wait_for_start()
    kill_supervisor(platform, name, signal.SIGTERM)
    wait_until(lambda: platform.describe(name).status.ended)
    description = platform.describe(name)
    assert (description.status, description.secondary_status) == (JobStatus.STOPPED, "Interrupted")
    assert beating.silent()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails, here and in processes started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_creation_leaves_a_failed_job(
    platform: LocalTrainingPlatform, new_job: NewJob, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    job = new_job()
    files = {**job.program.files, "large": tmp_path / "large"}
    job = replace(job, program=Program("train.py", files))
    with files_of_at_most(500_000), pytest.raises(OSError, match="large"):
        platform.create(job, job.name(1), {})
    description = platform.describe(job.name(1))
    assert description.status is JobStatus.FAILED
    assert description.failure_reason is not None
    assert "ended before it had started it" in description.failure_reason


def test_a_disk_that_is_full_when_the_model_is_written_is_a_failed_job(
    platform: LocalTrainingPlatform, new_job: NewJob
) -> None:
    job = new_job(
        """
        import os, pathlib, resource
        # Room for the program, none for the supervisor that packs the model.
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        (pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model").write_bytes(os.urandom(1_000_000))
        """
    )
    with files_of_at_most(500_000):
        platform.create(job, job.name(1), {})
    wait_until(lambda: platform.describe(job.name(1)).status.ended)

    description = platform.describe(job.name(1))
    assert description.status is JobStatus.FAILED
    assert description.failure_reason is not None
    assert description.failure_reason.startswith("could not write the model's artifact")
    output = platform.storage.path(f"training-jobs/{job.name(1)}/output")
    assert list(output.iterdir()) == []


def test_an_artifact_that_is_gone_is_missed(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish, tmp_path: Path
) -> None:
    job = new_job()
    finish(job)
    platform.storage.delete(f"training-jobs/{job.name(1)}/output")
    assert not platform.has_artifact(job.name(1))
    with pytest.raises(ArtifactMissing, match=job.name(1)):
        platform.fetch_artifact(job.name(1), tmp_path / "models")


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "outside", "flipped"])
def test_a_damaged_artifact_is_not_unpacked(
    platform: LocalTrainingPlatform,
    new_job: NewJob,
    finish: Finish,
    tmp_path: Path,
    damage: str,
) -> None:
    job = new_job(
        """
        import os, pathlib
        (pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model").write_bytes(os.urandom(50_000))
        """
    )
    finish(job)
    artifact = platform.storage.path(f"training-jobs/{job.name(1)}/output/model.tar.gz")
    whole = artifact.read_bytes()
    if damage == "truncated":
        artifact.write_bytes(whole[:20_000])
    elif damage == "not gzip":
        artifact.write_bytes(b"model")
    elif damage == "flipped":
        artifact.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    else:
        with tarfile.open(artifact, "w:gz") as archive:
            archive.add(__file__, "../outside.py")
    folder = tmp_path / "models"
    with pytest.raises(ArtifactCorrupt, match=r"model\.tar\.gz"):
        platform.fetch_artifact(job.name(1), folder)
    assert not folder.exists() or list(folder.iterdir()) == []
    assert not (tmp_path / "outside.py").exists()


def test_an_artifact_is_fetched_once(
    platform: LocalTrainingPlatform, new_job: NewJob, finish: Finish, tmp_path: Path
) -> None:
    job = new_job()
    finish(job)
    first = platform.fetch_artifact(job.name(1), tmp_path)
    assert platform.fetch_artifact(job.name(1), tmp_path) == first


def test_the_same_files_make_the_same_artifact(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(10_000)
    for copy, names in {"a": ["x", "y/z"], "b": ["y/z", "x"]}.items():
        for name in names:
            path = tmp_path / copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (ord(copy), len(name)))
        pack([tmp_path / copy], tmp_path / f"{copy}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_following_jobs_needs_no_heavy_library() -> None:
    loaded = (
        "import sys, sf_sagemaker.training.local, sf_sagemaker.training.run; print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"dagster", "duckdb", "pandas", "pyarrow", "xgboost", "boto3"} & set(modules)
