"""A backfill of sixty weeks in one run, under the service's limits on the rate of calls."""

import resource
import time
import uuid
from datetime import timedelta
from pathlib import Path
from threading import Event

import dagster as dg
import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.training.job import Limits, Program, TrainingJob
from sf_sagemaker.training.pipes import PipesTrainingClient
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from sf_sagemaker.training.sagemaker_messages import SageMakerMessages
from standins.sagemaker.service import SageMakerService

WEEKS = dg.WeeklyPartitionsDefinition(start_date="2014-04-28", end_date="2015-06-22", day_offset=1)
PARALLEL = 20
SECONDS = 6.0  # that each job waits for its instance
# Calls a second; AWS allows some of these no more.
RATES = {
    "CreateTrainingJob": 2,
    "DescribeTrainingJob": 6,
    "DescribeLogStreams": 5,
    "GetLogEvents": 10,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sixty_weeks_are_trained_side_by_side(
    service: SageMakerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    aws = Aws()
    storage = S3Storage(aws, service.create_bucket(f"backfill-{uuid.uuid4().hex[:8]}"), "p")
    platform = SageMakerTrainingPlatform(
        aws, storage, service.role_arn, pacing=Pacing(poll=2, longest_poll=6, settle=2, retry=1)
    )
    script = tmp_path / "train.py"
    script.write_text("print('trained')\n")
    keys = WEEKS.get_partition_keys()
    assert len(keys) == 60
    service.settings.starting_seconds = SECONDS
    service.settings.parallel_jobs = 4  # processes of this machine
    service.quotas.set("ml.m5.xlarge", PARALLEL)
    for operation, rate in RATES.items():
        service.limits.set(operation, rate, burst=rate)
    service.calls.clear()

    @dg.asset(partitions_def=WEEKS, backfill_policy=dg.BackfillPolicy.single_run())
    def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        client = PipesTrainingClient(SageMakerMessages(storage))

        def train(partition: str, interrupted: Event) -> Materialized:
            job = TrainingJob(
                model="prices",
                partition=partition,
                program=Program("train.py", {"train.py": script}),
                image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1",
                dataset_fingerprint=partition,
                channels=(),
                hyperparameters={},
                seed=7,
                limits=Limits(max_runtime=timedelta(minutes=10)),
            )
            result = client.run(
                context=context, job=job, platform=platform, interrupted=interrupted
            ).result
            return Materialized(metadata={"job": result.name, "adopted": result.adopted})

        return materialize_each(context, train, parallel=PARALLEL)

    with dg.DagsterInstance.local_temp(
        str(tmp_path), overrides={"telemetry": {"enabled": False}}
    ) as instance:
        start, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        ran = dg.materialize(
            [model],
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": keys[0],
                "dagster/asset_partition_range_end": keys[-1],
            },
        )
        took = time.monotonic() - start
        cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used.ru_utime
        assert ran.success
        assert instance.get_materialized_partitions(dg.AssetKey("model")) == set(keys)
    calls = service.calls
    created = [call for call in calls.of("CreateTrainingJob") if call.status == 200]
    assert len({call.parameters["TrainingJobName"] for call in created}) == 60
    assert not calls.of("ListTrainingJobs")
    throttled = sum(1 for call in calls if call.error and "Throttl" in call.error)
    assert throttled
    # One after the other, they would have waited sixty times for their instances.
    assert took < 60 * SECONDS / 2
    print(f"{took:.0f} s, {cpu:.0f} s of CPU, {throttled} throttled: {calls.counts()}")
    assert len(calls.of("DescribeTrainingJob")) < 60 * 20
    assert len(calls) < 60 * 60
