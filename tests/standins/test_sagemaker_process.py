"""The stand-in's life: what a new one knows, and that nothing outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from standins.sagemaker import SageMakerService
from standins.sagemaker.clients import make_client
from standins.sagemaker.examples import training_request
from standins.sagemaker.logs import GROUP
from waiting import wait_until

TESTS = Path(__file__).parents[1]


def test_there_is_no_group_before_the_first_job() -> None:
    with SageMakerService() as fresh:
        logs = fresh.client("logs")
        with pytest.raises(logs.exceptions.ResourceNotFoundException):
            logs.describe_log_streams(logGroupName=GROUP)


def pid_of(service_log: list[str]) -> int:
    return int(service_log[0].removeprefix("pid "))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


SLEEPER = "import os, subprocess, time\nprint('pid', os.getpid())\ntime.sleep(60)\n"


def test_closing_ends_jobs_at_once() -> None:
    with SageMakerService() as service:
        service.client("sagemaker").create_training_job(
            **training_request(service, "ended", SLEEPER)
        )
        wait_until(lambda: service.log("ended"))
        pid = pid_of(service.log("ended"))
        assert is_running(pid)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not is_running(pid)
    service.close()


def test_process_of_its_own_and_its_death() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "standins.sagemaker",
            "--region",
            "eu-west-1",
            "--parallel-jobs",
            "2",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        environment = about["environment"]
        assert environment["AWS_REGION"] == "eu-west-1"
        clients = {
            name: make_client(environment["AWS_ENDPOINT_URL"], name, "eu-west-1", "A" * 20)
            for name in ("s3", "sagemaker", "logs")
        }
        pid = _start_sleeper(clients, about["role_arn"])
        assert is_running(pid)
        process.kill()
        process.wait()
        wait_until(lambda: not is_running(pid))
    finally:
        process.kill()
        process.wait()
        process.stdout.close() if process.stdout else None


def test_process_of_its_own_ends_when_asked() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "standins.sagemaker"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def _start_sleeper(clients: dict[str, Any], role_arn: str) -> int:
    where = {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    clients["s3"].create_bucket(Bucket="sleepers", **where)
    clients["s3"].put_object(Bucket="sleepers", Key="train.py", Body=SLEEPER.encode())
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://sleepers/train.py"}
    clients["sagemaker"].create_training_job(
        TrainingJobName="sleeper",
        RoleArn=role_arn,
        AlgorithmSpecification={
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/train.py"],
        },
        InputDataConfig=[{"ChannelName": "code", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": "s3://sleepers/"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )

    def lines() -> list[str]:
        try:
            found = clients["logs"].filter_log_events(logGroupName="/aws/sagemaker/TrainingJobs")
        except clients["logs"].exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in found["events"]]

    wait_until(lines, told=lambda: "the job wrote nothing")
    return pid_of(lines())
