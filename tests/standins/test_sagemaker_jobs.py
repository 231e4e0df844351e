"""Training jobs of the stand-in: statuses, results, ends of every kind."""

import io
import json
import tarfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from standins.sagemaker import SageMakerService
from standins.sagemaker.examples import channel, training_request
from waiting import wait_until

BASE = (
    "import json, os, pathlib, signal, sys, time\n"
    "base = pathlib.Path(os.environ['SAGEMAKER_BASE_DIR'])\n"
)
WRITE_MODEL = BASE + "(base / 'model' / 'model.json').write_text('{}')\n"
WAIT = BASE + "print('waiting')\ntime.sleep(60)\n"


def create(service: SageMakerService, name: str, script: str, **options: Any) -> None:
    request = training_request(service, name, script, **options)
    service.client("sagemaker").create_training_job(**request)


def describe(service: SageMakerService, name: str) -> dict[str, Any]:
    return service.client("sagemaker").describe_training_job(TrainingJobName=name)


def archive(service: SageMakerService, uri: str) -> dict[str, bytes]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    content = service.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def secondaries(job: dict[str, Any]) -> list[str]:
    return [entry["Status"] for entry in job["SecondaryStatusTransitions"]]


def test_job_goes_through_its_statuses_and_leaves_its_model(service: SageMakerService) -> None:
    settings = service.settings
    settings.starting_seconds = settings.downloading_seconds = settings.uploading_seconds = 0.3
    script = WRITE_MODEL + "time.sleep(0.3)\n(base / 'output/data/plot.txt').write_text('p')\n"
    create(service, "statuses", script, Tags=[{"Key": "owner", "Value": "us"}])

    seen: list[tuple[str, str]] = []
    while not seen or seen[-1][0] == "InProgress":
        job = describe(service, "statuses")
        state = (job["TrainingJobStatus"], job["SecondaryStatus"])
        if state not in seen:
            seen.append(state)
        time.sleep(0.02)

    names = ["Starting", "Downloading", "Training", "Uploading"]
    assert seen == [*(("InProgress", name) for name in names), ("Completed", "Completed")]
    job = describe(service, "statuses")
    assert secondaries(job) == [*names, "Completed"]
    ends = [entry["EndTime"] for entry in job["SecondaryStatusTransitions"]]
    assert ends == sorted(ends)
    assert job["CreationTime"] < job["TrainingStartTime"] < job["TrainingEndTime"]
    trained = (job["TrainingEndTime"] - job["TrainingStartTime"]).total_seconds()
    assert 0.9 < trained <= job["TrainingTimeInSeconds"] < trained + 1.1
    assert job["BillableTimeInSeconds"] == job["TrainingTimeInSeconds"]
    assert job["ModelArtifacts"] == {
        "S3ModelArtifacts": "s3://training/models/statuses/output/model.tar.gz"
    }
    assert archive(service, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"model.json": b"{}"}
    output = "s3://training/models/statuses/output/output.tar.gz"
    assert archive(service, output) == {"plot.txt": b"p"}


def test_description_repeats_the_request(service: SageMakerService) -> None:
    request = training_request(
        service, "echo", WRITE_MODEL, HyperParameters={"eta": "0.1"}, Environment={"A": "b"}
    )
    service.client("sagemaker").create_training_job(**request)
    job = describe(service, "echo")
    assert {name: job[name] for name in request} == request


def test_container_has_the_layout_and_a_bare_environment(service: SageMakerService) -> None:
    script = WRITE_MODEL + (
        "config = base / 'input/config'\n"
        "told = {f.stem: json.loads(f.read_text()) for f in sorted(config.iterdir())}\n"
        "told['environment'] = dict(os.environ)\n"
        "told['arguments'] = sys.argv[1:]\n"
        "print(json.dumps(told))\n"
    )
    request = training_request(
        service,
        "layout",
        script,
        HyperParameters={"max_depth": "6"},
        Environment={"OWN": "value"},
        EnableNetworkIsolation=True,
    )
    arguments = ["--out", "/opt/ml/model/x", "/opt/mlflow"]
    request["AlgorithmSpecification"] |= {
        "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/train.py"],
        "ContainerArguments": arguments,
    }
    service.client("sagemaker").create_training_job(**request)
    service.jobs.wait("layout")
    service.flush_logs()

    told = json.loads(service.log("layout")[0])
    environment = told["environment"]
    home = environment["SAGEMAKER_BASE_DIR"]
    assert told["arguments"] == ["--out", f"{home}/model/x", "/opt/mlflow"]
    assert told["hyperparameters"] == {"max_depth": "6"}
    assert told["inputdataconfig"]["code"]["S3DistributionType"] == "FullyReplicated"
    assert told["resourceconfig"]["current_host"] == "algo-1"
    assert told["resourceconfig"]["hosts"] == ["algo-1"]
    assert environment["OWN"] == "value"
    assert environment["TRAINING_JOB_NAME"] == "layout"
    assert environment["AWS_REGION"] == "us-east-1"
    assert not [name for name in environment if name.startswith(("SM_", "AWS_ACCESS", "AWS_END"))]
    assert "PYTEST_CURRENT_TEST" not in environment
    assert not Path(home).exists()


def test_sorted_keys_are_dealt_to_hosts_in_turn(service: SageMakerService) -> None:
    service.create_bucket("shards")
    for number in range(5):
        service.client("s3").put_object(
            Bucket="shards", Key=f"train/shard={number}/part.txt", Body=b"x"
        )
    service.client("s3").put_object(Bucket="shards", Key="train-other/part.txt", Body=b"y")
    script = WRITE_MODEL + (
        "for name in ('train', 'all', 'loose'):\n"
        "    folder = base / 'input/data' / name\n"
        "    files = sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())\n"
        "    print(name, *files)\n"
    )
    channels = {
        "train": channel("train", "s3://shards/train/", sharded=True),
        "all": channel("all", "s3://shards/train/shard=0"),
        "loose": channel("loose", "s3://shards/train"),
    }
    create(service, "dealt", script, channels=channels, instances=2)
    assert service.jobs.wait("dealt").status == "Completed"
    service.flush_logs()

    every = " ".join(f"shard={number}/part.txt" for number in range(5))
    assert service.log("dealt") == [
        "train shard=0/part.txt shard=2/part.txt shard=4/part.txt",
        "all part.txt",
        f"loose {every} train-other/part.txt",
        "train shard=1/part.txt shard=3/part.txt",
        "all part.txt",
        f"loose {every} train-other/part.txt",
    ]


def test_manifest_names_the_objects_of_a_channel(service: SageMakerService) -> None:
    s3 = service.client("s3")
    service.create_bucket("manifests")
    for name in ("a.txt", "deep/b.txt", "not.txt"):
        s3.put_object(Bucket="manifests", Key=f"data/{name}", Body=name.encode())
    manifest = [{"prefix": "s3://manifests/data/"}, "a.txt", "deep/b.txt"]
    s3.put_object(Bucket="manifests", Key="manifest.json", Body=json.dumps(manifest).encode())
    script = WRITE_MODEL + (
        "print(sorted(p.read_text() for p in (base / 'input/data/train').rglob('*.txt')))\n"
    )
    data = channel("train", "s3://manifests/manifest.json", kind="ManifestFile")
    create(service, "manifest", script, channels={"train": data})
    assert service.jobs.wait("manifest").status == "Completed"
    service.flush_logs()
    assert service.log("manifest") == ["['a.txt', 'deep/b.txt']"]


def test_hosts_of_a_job_meet_at_the_tracker(service: SageMakerService) -> None:
    script = WRITE_MODEL + (
        "import socket\n"
        "host = json.loads((base / 'input/config/resourceconfig.json').read_text())\n"
        "port = int(os.environ['SF_SAGEMAKER_TRACKER_PORT'])\n"
        "where = (os.environ['SF_SAGEMAKER_TRACKER_URI'], port)\n"
        "if host['current_host'] == 'algo-1':\n"
        "    with socket.create_server(where) as server:\n"
        "        connection, _ = server.accept()\n"
        "        with connection:\n"
        "            print('met', connection.recv(100).decode())\n"
        "else:\n"
        "    for _ in range(500):\n"
        "        try:\n"
        "            connection = socket.create_connection(where)\n"
        "            break\n"
        "        except ConnectionRefusedError:\n"
        "            time.sleep(0.02)\n"
        "    connection.sendall(host['current_host'].encode())\n"
        "    (base / 'model' / 'of-two.json').write_text('2')\n"
    )
    create(service, "tracker", script, instances=2)
    job = service.jobs.wait("tracker")
    service.flush_logs()
    assert service.log("tracker") == ["met algo-2"]
    assert job.artifact is not None
    assert archive(service, job.artifact) == {"model.json": b"{}", "of-two.json": b"2"}


def test_metrics_are_the_last_that_the_log_tells(service: SageMakerService) -> None:
    script = WRITE_MODEL + "for n in (3, 2, 1): print(f'validation-rmse: {n / 4}')\n"
    request = training_request(service, "metrics", script)
    request["AlgorithmSpecification"]["MetricDefinitions"] = [
        {"Name": "validation:rmse", "Regex": "validation-rmse: ([0-9.]+)"},
        {"Name": "never", "Regex": "never: ([0-9.]+)"},
    ]
    service.client("sagemaker").create_training_job(**request)
    service.jobs.wait("metrics")
    (metric,) = describe(service, "metrics")["FinalMetricDataList"]
    assert (metric["MetricName"], metric["Value"]) == ("validation:rmse", 0.25)
    assert isinstance(metric["Timestamp"], datetime)


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        (
            "failure-file",
            BASE + "(base / 'output/failure').write_text('no rows in train')\nsys.exit(3)",
            "AlgorithmError: no rows in train, exit code: 3",
        ),
        ("no-failure-file", "raise SystemExit(1)", "AlgorithmError: , exit code: 1"),
        (
            "killed",
            BASE + "os.kill(os.getpid(), signal.SIGKILL)",
            "AlgorithmError: , exit code: 137",
        ),
    ],
)
def test_failure_is_told_as_sagemaker_tells_it(
    service: SageMakerService, name: str, script: str, reason: str
) -> None:
    create(service, name, script)
    service.jobs.wait(name)
    job = describe(service, name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Failed", "Failed")
    assert job["FailureReason"] == reason
    assert "ModelArtifacts" not in job
    assert "Uploading" not in secondaries(job)


def test_long_failure_is_cut(service: SageMakerService) -> None:
    create(service, "long", BASE + "(base / 'output/failure').write_text('x' * 5000)\nsys.exit(1)")
    service.jobs.wait("long")
    reason = describe(service, "long")["FailureReason"]
    assert len(reason) == 1024
    assert reason.endswith("xxx, exit code: 1")


def test_entrypoint_that_does_not_exist_fails_the_job(service: SageMakerService) -> None:
    request = training_request(service, "no-entrypoint", "")
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = ["/opt/ml/code/absent.sh"]
    service.client("sagemaker").create_training_job(**request)
    assert service.jobs.wait("no-entrypoint").failure_reason == "AlgorithmError: , exit code: 127"


def test_one_failed_host_fails_the_job_and_ends_the_others(service: SageMakerService) -> None:
    script = BASE + (
        "host = json.loads((base / 'input/config/resourceconfig.json').read_text())\n"
        "if host['current_host'] == 'algo-2': sys.exit(5)\n"
        "time.sleep(60)\n"
    )
    create(service, "half", script, instances=2)
    began = time.monotonic()
    job = service.jobs.wait("half", timeout=20)
    assert time.monotonic() - began < 15
    assert job.failure_reason == "AlgorithmError: , exit code: 5"


def test_stopped_job_may_save_its_model(service: SageMakerService) -> None:
    script = BASE + (
        "def save(*_):\n"
        "    (base / 'model/so-far.json').write_text('[]')\n"
        "    time.sleep(0.5)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready')\n"
        "time.sleep(60)\n"
    )
    create(service, "stop", script)
    sagemaker = service.client("sagemaker")
    wait_for_line(service, "stop", "ready")
    sagemaker.stop_training_job(TrainingJobName="stop")
    job = describe(service, "stop")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopping", "Stopping")
    service.jobs.wait("stop")

    job = describe(service, "stop")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert secondaries(job) == ["Starting", "Downloading", "Training", "Stopping", "Stopped"]
    assert list(archive(service, job["ModelArtifacts"]["S3ModelArtifacts"])) == ["so-far.json"]
    with pytest.raises(sagemaker.exceptions.ClientError) as stopped:
        sagemaker.stop_training_job(TrainingJobName="stop")
    assert stopped.value.response["Error"]["Code"] == "ValidationException"
    assert "is in status Stopped" in stopped.value.response["Error"]["Message"]


def test_stopped_job_that_does_not_listen_is_killed(service: SageMakerService) -> None:
    service.settings.stop_grace_seconds = 0.5
    script = (
        BASE + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\ntime.sleep(60)\n"
    )
    create(service, "deaf", script)
    wait_for_line(service, "deaf", "ready")
    service.client("sagemaker").stop_training_job(TrainingJobName="deaf")
    began = time.monotonic()
    job = service.jobs.wait("deaf", timeout=20)
    assert 0.4 < time.monotonic() - began < 5
    assert (job.status, job.artifact) == ("Stopped", None)


def test_job_can_be_stopped_before_it_starts(service: SageMakerService) -> None:
    service.settings.starting_seconds = 60
    create(service, "early", WAIT)
    service.client("sagemaker").stop_training_job(TrainingJobName="early")
    service.jobs.wait("early", timeout=10)
    job = describe(service, "early")
    assert secondaries(job) == ["Starting", "Stopping", "Stopped"]
    assert "TrainingStartTime" not in job
    assert "BillableTimeInSeconds" not in job


def test_time_limit_stops_the_job(service: SageMakerService) -> None:
    create(service, "limit", WAIT, max_runtime=1)
    service.jobs.wait("limit", timeout=20)
    job = describe(service, "limit")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert job["TrainingTimeInSeconds"] >= 1


def test_results_may_stay_uncompressed(service: SageMakerService) -> None:
    output = {"S3OutputPath": "s3://training/plain", "CompressionType": "NONE"}
    create(service, "plain", WRITE_MODEL, OutputDataConfig=output)
    assert service.jobs.wait("plain").artifact == "s3://training/plain/plain/output/model/"
    content = service.client("s3").get_object(
        Bucket="training", Key="plain/plain/output/model/model.json"
    )
    assert content["Body"].read() == b"{}"


def test_names_are_used_once_in_a_region(service: SageMakerService) -> None:
    create(service, "once", "raise SystemExit(1)")
    service.jobs.wait("once")
    sagemaker = service.client("sagemaker")
    request = training_request(service, "once", WRITE_MODEL)
    with pytest.raises(sagemaker.exceptions.ResourceInUse):
        sagemaker.create_training_job(**request)
    elsewhere = service.client("sagemaker", "eu-west-1")
    with pytest.raises(elsewhere.exceptions.ClientError, match="Requested resource not found"):
        elsewhere.describe_training_job(TrainingJobName="once")


def test_deleted_job_is_unknown(service: SageMakerService) -> None:
    sagemaker = service.client("sagemaker")
    create(service, "deleted", WAIT)
    service.jobs["deleted"].wait_for("Training")
    with pytest.raises(sagemaker.exceptions.ResourceInUse):
        sagemaker.delete_training_job(TrainingJobName="deleted")
    sagemaker.stop_training_job(TrainingJobName="deleted")
    service.jobs.wait("deleted")
    sagemaker.delete_training_job(TrainingJobName="deleted")
    with pytest.raises(sagemaker.exceptions.ClientError, match="Requested resource not found"):
        sagemaker.describe_training_job(TrainingJobName="deleted")


def test_jobs_are_listed_in_pages(service: SageMakerService) -> None:
    for number in range(3):
        create(service, f"listed-{number}", WRITE_MODEL)
    for number in range(3):
        service.jobs.wait(f"listed-{number}")
    pages = service.client("sagemaker").get_paginator("list_training_jobs")
    found = [
        [job["TrainingJobName"] for job in page["TrainingJobSummaries"]]
        for page in pages.paginate(
            NameContains="listed",
            StatusEquals="Completed",
            SortOrder="Ascending",
            PaginationConfig={"PageSize": 2},
        )
    ]
    assert found == [["listed-0", "listed-1"], ["listed-2"]]


def test_jobs_wait_for_instances(service: SageMakerService) -> None:
    service.settings.parallel_jobs = 1
    create(service, "first", WAIT)
    service.jobs["first"].wait_for("Training")
    create(service, "second", WRITE_MODEL)
    time.sleep(0.5)
    assert describe(service, "second")["SecondaryStatus"] == "Starting"
    service.client("sagemaker").stop_training_job(TrainingJobName="first")
    assert service.jobs.wait("second").status == "Completed"


def test_missing_data_fails_the_job(service: SageMakerService) -> None:
    service.settings.parallel_jobs = 0
    create(service, "vanishing", WRITE_MODEL)
    service.client("s3").delete_object(Bucket="training", Key="code/vanishing/train.py")
    service.settings.parallel_jobs = None
    job = service.jobs.wait("vanishing")
    assert job.status == "Failed"
    assert (job.failure_reason or "").startswith("ClientError: Data download failed:")


def test_missing_output_bucket_fails_the_job(service: SageMakerService) -> None:
    output = {"S3OutputPath": "s3://absent-bucket/models"}
    create(service, "homeless", WRITE_MODEL, OutputDataConfig=output)
    job = service.jobs.wait("homeless")
    assert job.status == "Failed"
    assert (job.failure_reason or "").startswith("ClientError: Artifact upload failed:")


def wait_for_line(service: SageMakerService, job: str, line: str) -> None:
    wait_until(lambda: line in service.log(job), told=lambda: service.log(job))
