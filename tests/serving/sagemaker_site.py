"""A SageMaker endpoint host against the stand-in, with small models in place of trained ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from serving.models import Artifacts
from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.endpoint import EndpointOptions, ServedModel
from sf_sagemaker.serving.hosting import Hosting, Instances, Rollout
from sf_sagemaker.serving.sagemaker import EndpointPacing, SageMakerEndpointHost
from sf_sagemaker.serving.sagemaker_model import SageMakerModels
from standins.sagemaker import SageMakerService
from standins.sagemaker.fixtures import reachable_service

BUCKET, PREFIX = "models-of-a-team", "serving-tests"
PACING = EndpointPacing(poll=0.1, longest_poll=0.3, patience=5)
AT_ONCE = Hosting(rollout=Rollout(wait=timedelta(0)))
CANARY = Hosting(
    machines=Instances(count=2),
    rollout=Rollout(traffic="canary", step_percent=50, wait=timedelta(seconds=1)),
)


@dataclass
class ServingSite:
    """The host, the service behind it, and the models that it can serve."""

    service: SageMakerService
    artifacts: Artifacts
    models: SageMakerModels
    host: SageMakerEndpointHost
    made: dict[str, ServedModel] = field(default_factory=dict)

    def model(self, version: int, *, of: str = "houses", level: float | None = None) -> ServedModel:
        """A trained model; its prices rise with the version."""
        job = f"{of}-job-{version}"
        if job not in self.made:
            self.artifacts.add(job, level=version / 10 if level is None else level)
            self.made[job] = ServedModel(
                of, version, job, f"s3://{BUCKET}/{PREFIX}/training-jobs/{job}", "xgboost"
            )
        return self.made[job]

    def again(self) -> SageMakerEndpointHost:
        """Another process's host."""
        return host_of(self.models)


@contextmanager
def serving_site(folder: Path) -> Iterator[ServingSite]:
    """An account of its own; its containers end with it."""
    with reachable_service() as service:
        service.create_bucket(BUCKET)
        artifacts = Artifacts(folder)
        models = models_of(service.role_arn, artifacts)
        yield ServingSite(service, artifacts, models, host_of(models))


def models_of(role_arn: str, artifacts: Artifacts) -> SageMakerModels:
    aws = Aws()
    return SageMakerModels(aws, S3Storage(aws, BUCKET, PREFIX), role_arn, artifacts.fetch)


def host_of(models: SageMakerModels) -> SageMakerEndpointHost:
    return SageMakerEndpointHost(models, pacing=PACING)


def options(hosting: Hosting = AT_ONCE) -> EndpointOptions:
    return EndpointOptions(hosting=hosting)
