"""What Autopilot made of a dataset: its best candidate, as a file that stands for the model.

The model itself is gigabytes and runs in containers of SageMaker's, so it stays where it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sf_sagemaker.training.errors import ArtifactCorrupt

_FILE = "candidate.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class InferenceContainer(_Value):
    """One container of those that serve the model, in their order."""

    image: str
    model_data_url: str
    environment: Mapping[str, str] = {}

    @property
    def is_folder(self) -> bool:
        """Whether the model's files lie as they are, and in no archive."""
        return self.model_data_url.endswith("/")


class CandidateMetric(_Value):
    """A metric by the name of the API: Perplexity, ValidationLoss, TrainingLoss, Rouge1, …"""

    name: str
    value: float
    dataset: Literal["Train", "Validation", "Test"] | None = None


class CandidateStep(_Value):
    """A job that was part of the fine-tuning, by its type in CloudFormation's words."""

    type: str
    name: str
    arn: str


class Candidate(_Value):
    """The best candidate of the AutoML job `job`."""

    job: str
    name: str
    base_model: str
    containers: tuple[InferenceContainer, ...]
    metrics: tuple[CandidateMetric, ...] = ()
    steps: tuple[CandidateStep, ...] = ()

    @property
    def artifact_uri(self) -> str:
        """Where the model's files lie: an archive, or a folder."""
        return self.containers[0].model_data_url

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> "Candidate | None":
        """The best candidate of a DescribeAutoMLJobV2 answer; None where none has a model."""
        best = description.get("BestCandidate") or {}
        # Where there are several, that for GPUs is first: language models run on nothing else.
        by_unit = best.get("InferenceContainerDefinitions") or {}
        containers = by_unit.get("GPU") or best.get("InferenceContainers") or by_unit.get("CPU")
        if not containers:
            return None
        resolved = description.get("ResolvedAttributes", {})
        resolved = resolved.get("AutoMLProblemTypeResolvedAttributes", {})
        return cls(
            job=description["AutoMLJobName"],
            name=best["CandidateName"],
            base_model=resolved.get("TextGenerationResolvedAttributes", {}).get("BaseModelName")
            or _asked_for(description),
            containers=tuple(
                InferenceContainer(
                    image=container["Image"],
                    model_data_url=container["ModelDataUrl"],
                    environment=container.get("Environment", {}),
                )
                for container in containers
            ),
            metrics=tuple(_metrics(best)),
            steps=tuple(
                CandidateStep(
                    type=step["CandidateStepType"],
                    name=step["CandidateStepName"],
                    arn=step["CandidateStepArn"],
                )
                for step in best["CandidateSteps"]
            ),
        )

    @classmethod
    def read(cls, folder: Path) -> "Candidate":
        """The candidate that a folder stands for. Raises ArtifactCorrupt."""
        path = folder / _FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactCorrupt(f"{path} describes no candidate of Autopilot: {error}") from error

    def write(self, folder: Path) -> None:
        """Leaves the candidate in a new folder."""
        folder.mkdir(parents=True)
        (folder / _FILE).write_text(self.model_dump_json(indent=2))


def training_step(candidate: Mapping[str, Any]) -> str | None:
    """The name of the training job of an AutoMLCandidate, once it has one."""
    for step in candidate.get("CandidateSteps", []):
        if step["CandidateStepType"] == "AWS::SageMaker::TrainingJob":
            return step["CandidateStepArn"].rpartition("/")[2]
    return None


def _metrics(best: Mapping[str, Any]) -> list[CandidateMetric]:
    found = best.get("CandidateProperties", {}).get("CandidateMetrics", [])
    return [
        CandidateMetric(
            name=metric.get("StandardMetricName") or metric["MetricName"],
            value=metric["Value"],
            dataset=metric.get("Set"),
        )
        for metric in found
        if "Value" in metric and (metric.get("StandardMetricName") or metric.get("MetricName"))
    ]


def _asked_for(description: Mapping[str, Any]) -> str:
    config = description.get("AutoMLProblemTypeConfig", {}).get("TextGenerationJobConfig", {})
    return config.get("BaseModelName", "unknown")
