"""A fine-tuning by Autopilot as a value: what decides its result, and the name that follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sf_sagemaker.training.autopilot_models import DEFAULT_BASE_MODEL
from sf_sagemaker.training.job import Limits, attempt_name, short_digest

_NAME_LIMIT = 32  # CreateAutoMLJobV2, SageMaker API reference: AutoMLJobName; case doesn't matter


@dataclass(frozen=True)
class AutopilotJob:
    """A fine-tuning of one base model on one dataset.

    `training` and `validation` are the storage folders of the two channels; without a validation
    channel Autopilot splits off rows itself. `hyperparameters` have the API's names. Of `limits`,
    `max_runtime` bounds the whole job, and those count that aren't of an instance: which instances it
    uses is Autopilot's choice. `max_candidate_runtime` bounds the training within the job.
    """

    model: str
    partition: str
    dataset_fingerprint: str
    training: str
    validation: str | None = None
    base_model: str | None = None
    accept_eula: bool = False
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    max_candidate_runtime: timedelta | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def instance_count(self) -> int:
        """One, as far as costs go: the price is of what Autopilot uses."""
        return 1

    @property
    def digest(self) -> str:
        """Ten hex digits over everything that decides the result, and nothing else."""
        return short_digest(
            {
                "model": self.model,
                "partition": self.partition,
                "dataset": self.dataset_fingerprint,
                "validation": self.validation is not None,
                "base_model": self.base_model or DEFAULT_BASE_MODEL,
                "hyperparameters": dict(self.hyperparameters),
            }
        )

    def anew(self, asked_at: datetime) -> "AutopilotJob":
        """Itself: it leaves nothing that another one would go on from."""
        return self

    def name(self, attempt: int) -> str:
        """The name of the job's attempt (from 1): letters, digits and hyphens, 32 at most.

        Raises InvalidTrainingJob for an attempt below 1.
        """
        return attempt_name(self.model, self.partition, self.digest, attempt, _NAME_LIMIT)
