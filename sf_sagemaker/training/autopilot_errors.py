"""What can become of a fine-tuning by Autopilot that ends without a model."""

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.errors import JobFailed, TooManyAttempts
from sf_sagemaker.training.platform import JobDescription
from sf_sagemaker.training.run import JobKind

NOUN = "AutoML job"


class AutoMLJobFailed(JobFailed):
    """An AutoML job that ended as Failed."""

    noun = NOUN


class AutoMLJobStopped(SfSagemakerError):
    """A job that was stopped: by a person, or by its time limit. It is a person's to go on."""

    permanent = True

    def __init__(self, description: JobDescription) -> None:
        late = description.secondary_status == "MaxAutoMLJobRuntimeReached"
        super().__init__(
            f"AutoML job {description.name} was stopped before it had a model "
            f"({description.secondary_status}). Materialize again for another attempt, which starts "
            f"from nothing{', and raise compute.max_runtime' if late else ''}"
        )
        self.description = description


class AutoMLJobVanished(SfSagemakerError):
    """A job that is gone while it was being waited for."""

    permanent = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"AutoML job {name} no longer exists, although a run waits for it. Materialize again to "
            "train anew"
        )


AUTOML = JobKind(NOUN, AutoMLJobFailed, AutoMLJobStopped, AutoMLJobVanished, TooManyAttempts)
