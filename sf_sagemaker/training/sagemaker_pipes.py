"""A Dagster Pipes client for SageMaker training jobs, for code locations without our components."""

from collections.abc import Mapping

import dagster as dg

from sf_sagemaker.training.holding import StepContext, not_retried
from sf_sagemaker.training.job import TrainingJob
from sf_sagemaker.training.pipes import PipesTrainingClient, TrainingInvocation
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from sf_sagemaker.training.sagemaker_messages import SageMakerMessages


class PipesSageMakerClient(dg.PipesClient):
    """Runs training jobs on SageMaker from Dagster steps; the step survives its process.

    A job that a step left behind is adopted by the next one that asks for the same; a cancelled run
    stops its job. What the program reports through Pipes, and what it prints, arrives in the run.
    """

    def __init__(self, platform: SageMakerTrainingPlatform) -> None:
        self._platform = platform
        self._client = PipesTrainingClient(SageMakerMessages(platform.storage))

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        context: StepContext,
        job: TrainingJob,
        force: bool = False,
        extras: Mapping[str, object] | None = None,
    ) -> TrainingInvocation:
        """Trains `job`, or adopts the attempt that did or does, and waits until it has completed.

        `force` trains anew. Raises dg.Failure, which nothing retries, for an error of the program or
        of the configuration, and else as `run_job` does.
        """
        with not_retried(context):
            return self._client.run(
                context=context, job=job, platform=self._platform, force=force, extras=extras
            )
