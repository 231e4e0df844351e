"""An asset that trains on SageMaker, for tests: in this process, or `python sagemaker_steps.py`."""

import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dagster as dg

from sf_sagemaker.aws import Aws
from sf_sagemaker.containers import program_files
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.training.holding import StepContext
from sf_sagemaker.training.job import Limits, Program, TrainingJob
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from sf_sagemaker.training.sagemaker_pipes import PipesSageMakerClient

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1"
PACING = Pacing(poll=0.2, longest_poll=0.4, settle=2.0, retry=0.1)

# Under the container contract, as SageMaker keeps it for a program with an entrypoint of its own.
PROGRAM = """
import pathlib, sys, time
from sf_sagemaker.containers.environment import Environment, StopSignal, run
from sf_sagemaker.containers.reporter import open_reporter

def main(environment: Environment, stop: StopSignal) -> None:
    with open_reporter() as reporter:
        reporter.info("epoch 1")
        go = pathlib.Path(environment.hyperparameters["go"])
        while not go.exists():
            time.sleep(0.05)
            stop.check()
        reporter.metrics(rmse=0.5)
    if environment.hyperparameters["fails"] == "yes":
        raise ValueError("the rows are wrong")
    (environment.model_dir / "model.txt").write_text("a model")

if __name__ == "__main__":
    run(main)
"""


@dataclass(frozen=True)
class Steps:
    """What the processes of a test have in common: a folder, a bucket, a role, a model's name."""

    folder: Path
    bucket: str
    role_arn: str
    model: str

    @property
    def go(self) -> Path:
        return self.folder / "go"

    @property
    def completed(self) -> Path:
        """There when a step's job has completed, before the step ends."""
        return self.folder / "completed"

    @property
    def hold(self) -> Path:
        """While it is there, a step whose job has completed doesn't end."""
        return self.folder / "hold"

    def arguments(self) -> list[str]:
        steps = [str(self.folder), self.bucket, self.role_arn, self.model]
        return [sys.executable, __file__, *steps]

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.local_temp(
            str(self.folder), overrides={"telemetry": {"enabled": False}}
        )

    def platform(self, aws: Aws | None = None) -> SageMakerTrainingPlatform:
        aws = aws or Aws()
        storage = S3Storage(aws, self.bucket, "project")
        return SageMakerTrainingPlatform(aws, storage, self.role_arn, pacing=PACING)

    def job(self, *, partition: str = "2015-04-27", fails: bool = False) -> TrainingJob:
        script = self.folder / "train.py"
        script.write_text(PROGRAM)
        files = {**program_files("xgboost")[1], "train.py": script}
        return TrainingJob(
            model=self.model,
            partition=partition,
            program=Program("train.py", files),
            image=IMAGE,
            dataset_fingerprint="abc",
            channels=(),
            hyperparameters={"go": str(self.go), "fails": "yes" if fails else "no"},
            seed=7,
            limits=Limits(max_runtime=timedelta(minutes=5)),
        )

    def asset(
        self,
        job: TrainingJob,
        platform: SageMakerTrainingPlatform,
        *,
        name: str = "model",
        retries: int = 0,
    ) -> dg.AssetsDefinition:
        @dg.asset(name=name, retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None)
        def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return self.train(context, job, platform)

        return model

    def train(
        self, context: StepContext, job: TrainingJob, platform: SageMakerTrainingPlatform
    ) -> dg.MaterializeResult:
        invocation = PipesSageMakerClient(platform).run(context=context, job=job)
        self.completed.touch()
        while self.hold.exists():
            time.sleep(0.05)
        result = invocation.result
        metrics = [m["metrics"] for m in invocation.get_custom_messages() if "metrics" in m]
        return dg.MaterializeResult(
            metadata={"job": result.name, "adopted": result.adopted, **metrics[-1]}
        )


if __name__ == "__main__":
    steps = Steps(Path(sys.argv[1]), *sys.argv[2:5])
    made = steps.asset(steps.job(), steps.platform(), retries=int(sys.argv[5]))
    with steps.instance() as instance:
        ran = dg.materialize([made], instance=instance)
        assert ran.success
