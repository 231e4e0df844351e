"""What can become of a training job that ends without a model."""

from collections.abc import Sequence

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.platform import JobDescription, JobRefused, LogLine


class JobFailed(SfSagemakerError):
    """A job that ended as Failed. `description` says why, `log_tail` holds its last lines."""

    noun = "job"

    def __init__(self, description: JobDescription, log_tail: Sequence[LogLine]) -> None:
        reason = description.failure_reason or "no reason given"
        message = f"{self.noun} {description.name} failed: {reason}"
        if log_tail:
            lines = "\n".join(f"  {line.host}  {line.text}" for line in log_tail)
            message += f"\nThe last {len(log_tail)} lines of its log:\n{lines}"
        if description.log:
            message += f"\nThe whole log: {description.log}"
        super().__init__(message)
        self.description = description
        self.log_tail = tuple(log_tail)
        kind = description.failure_kind
        self.permanent = kind is not None and not kind.passing


class TrainingJobFailed(JobFailed):
    """A training job that ended as Failed."""

    noun = "training job"


_REMEDIES = {
    "MaxRuntimeExceeded": ", and raise compute.max_runtime",
    "MaxWaitTimeExceeded": ", and raise compute.max_wait or set compute.spot to false",
}


class TrainingJobStopped(SfSagemakerError):
    """A job that was stopped: by a person, or by its time limit. It is a person's to go on."""

    permanent = True

    def __init__(self, description: JobDescription) -> None:
        super().__init__(
            f"training job {description.name} was stopped before it completed "
            f"({description.secondary_status}). There is no model of it; materialize again for "
            "another attempt, which goes on from the last checkpoint"
            + _REMEDIES.get(description.secondary_status, "")
        )
        self.description = description


class TrainingJobVanished(SfSagemakerError):
    """A job that was deleted while it was being waited for."""

    permanent = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"training job {name} no longer exists: it was deleted while a run waited for it. "
            "Materialize again to train anew"
        )


class TooManyAttempts(SfSagemakerError):
    """A job whose every allowed attempt is used up."""

    permanent = True

    def __init__(self, first: str, last: str) -> None:
        super().__init__(
            f"all attempts from {first} to {last} have ended without a usable model. Look at the "
            "log of the last one; a change of code, data or hyperparameters starts at 1 again"
        )


class ArtifactCorrupt(SfSagemakerError):
    """A model.tar.gz that can't be unpacked, or would write outside its folder."""


class BaseModelRefused(JobRefused):
    """A base model that jobs of the platform can't get, or not as they are configured."""
