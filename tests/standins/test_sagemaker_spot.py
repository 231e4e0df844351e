"""Spot instances that go away, checkpoints that stay, and warm pools."""

import time
from typing import Any

from standins.sagemaker import SageMakerService
from standins.sagemaker.examples import training_request
from standins.sagemaker.quotas import WARM_POOL
from waiting import wait_until

# Waits for its end where it has no checkpoint, and is done where it has one.
RESUME = """
import os, pathlib, signal, sys, time
base = pathlib.Path(os.environ['SAGEMAKER_BASE_DIR'])
state = base / 'checkpoints' / 'deep' / 'state.txt'
print('resumed' if state.exists() else 'new')
if not state.exists():
    signal.signal(signal.SIGTERM, lambda *_: (state.write_text('2'), sys.exit(0)))
    state.parent.mkdir()
    state.write_text('1')
    time.sleep(60)
(base / 'model' / 'count.txt').write_text(state.read_text())
"""


def create(service: SageMakerService, name: str, max_wait: int = 60, **changes: Any) -> None:
    request = training_request(
        service,
        name,
        RESUME,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": max_wait},
        CheckpointConfig={"S3Uri": f"s3://training/checkpoints/{name}"},
        **changes,
    )
    if max_wait < 60:
        request["StoppingCondition"]["MaxRuntimeInSeconds"] = max_wait
    service.client("sagemaker").create_training_job(**request)


def describe(service: SageMakerService, name: str) -> dict[str, Any]:
    return service.client("sagemaker").describe_training_job(TrainingJobName=name)


def test_interrupted_job_goes_on_from_its_checkpoint(service: SageMakerService) -> None:
    service.settings.restart_seconds = 0.3
    create(service, "interrupted")
    s3 = service.client("s3")
    key = "checkpoints/interrupted/deep/state.txt"
    wait_until(lambda: s3.list_objects_v2(Bucket="training", Prefix=key)["KeyCount"])
    service.jobs.interrupt("interrupted")
    service.jobs.wait("interrupted")
    service.flush_logs()

    job = describe(service, "interrupted")
    assert job["TrainingJobStatus"] == "Completed"
    assert [entry["Status"] for entry in job["SecondaryStatusTransitions"]] == [
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    assert service.log("interrupted") == ["new", "resumed"]
    # What the script saved when it was told to end is what the second one found.
    assert s3.get_object(Bucket="training", Key=key)["Body"].read() == b"2"
    assert 1 <= job["BillableTimeInSeconds"] <= job["TrainingTimeInSeconds"]


def test_spot_instances_are_cheaper(service: SageMakerService) -> None:
    service.settings.spot_share = 0.25
    service.settings.downloading_seconds = 1.2
    service.client("s3").put_object(
        Bucket="training", Key="checkpoints/cheap/deep/state.txt", Body=b"1"
    )
    create(service, "cheap")
    service.jobs.wait("cheap")
    job = describe(service, "cheap")
    assert job["TrainingTimeInSeconds"] >= 2
    assert job["BillableTimeInSeconds"] == -(-job["TrainingTimeInSeconds"] // 4)


def test_next_training_can_be_interrupted(service: SageMakerService) -> None:
    service.faults.interrupt_spot(after_seconds=0.1)
    service.client("s3").put_object(
        Bucket="training", Key="checkpoints/next/other.txt", Body=b"found"
    )
    service.settings.stop_grace_seconds = 5
    create(service, "next")
    service.jobs["next"].wait_for("Interrupted")
    service.client("sagemaker").stop_training_job(TrainingJobName="next")
    assert service.jobs.wait("next").status == "Stopped"


def test_interruption_hits_no_job_on_demand(service: SageMakerService) -> None:
    service.faults.interrupt_spot()
    request = training_request(service, "on-demand", "")
    service.client("sagemaker").create_training_job(**request)
    assert service.jobs.wait("on-demand").status == "Completed"
    assert service.faults.left() == ["spot interruption"]


def test_longest_wait_stops_the_job(service: SageMakerService) -> None:
    service.settings.restart_seconds = 30
    service.faults.interrupt_spot()
    create(service, "wait", max_wait=2)
    service.jobs.wait("wait", timeout=20)
    job = describe(service, "wait")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")


def test_internal_errors_are_retried_as_often_as_asked(service: SageMakerService) -> None:
    service.faults.internal_failure(times=2)
    create(service, "retried", RetryStrategy={"MaximumRetryAttempts": 1})
    service.jobs.wait("retried")
    job = describe(service, "retried")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: We encountered an internal error")
    statuses = [entry["Status"] for entry in job["SecondaryStatusTransitions"]]
    assert statuses.count("Restarting") == 1


def test_warm_pool_is_kept_until_it_is_ended(service: SageMakerService) -> None:
    service.quotas.set("ml.m5.large", 1, WARM_POOL)
    request = training_request(service, "warm", "")
    request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = 600
    sagemaker = service.client("sagemaker")
    sagemaker.create_training_job(**request)
    service.jobs.wait("warm")
    assert describe(service, "warm")["WarmPoolStatus"] == {"Status": "Available"}
    sagemaker.update_training_job(
        TrainingJobName="warm", ResourceConfig={"KeepAlivePeriodInSeconds": 0}
    )
    time.sleep(0.01)
    assert describe(service, "warm")["WarmPoolStatus"] == {"Status": "Terminated"}
