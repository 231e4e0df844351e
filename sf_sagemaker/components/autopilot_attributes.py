"""The group of attributes of `method: autopilot`: how SageMaker Autopilot fine-tunes."""

from pydantic import Field, field_validator, model_validator

from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.components.transform_attributes import TransformBounds
from sf_sagemaker.periods import parse_duration
from sf_sagemaker.training.autopilot_models import BASE_MODELS, DEFAULT_BASE_MODEL, needs_eula
from sf_sagemaker.training.sagemaker_image import has_gpus


class AutopilotInference(TransformBounds):
    """How the models are asked for their answers when they are evaluated: by batch transform jobs."""

    settings = "autopilot.inference"

    instance_type: str = Field(
        default="ml.g5.12xlarge",
        description="SageMaker instance type with GPUs; the default is what Autopilot's documentation "
        "recommends.",
    )
    max_new_tokens: int = Field(
        default=64, description="Tokens that a model may write; a right answer must fit in."
    )

    _tokens = within("max_new_tokens", least=1, most=4096)

    @field_validator("instance_type")
    @classmethod
    def _is_instance_type(cls, value: str) -> str:
        if not value.startswith("ml.") or value.count(".") != 2:
            raise ValueError("not a SageMaker instance type, such as ml.g5.12xlarge")
        if not has_gpus(value):
            raise ValueError("has no GPU, which the models need: such as ml.g5.12xlarge")
        return value


class Autopilot(Attributes):
    """What SageMaker Autopilot fine-tunes, and how. Anything left out is the service's own choice."""

    base_model: str | None = Field(
        default=None,
        description=f"Base model by Autopilot's name for it; {DEFAULT_BASE_MODEL} without one. "
        f"Documented are: {', '.join(BASE_MODELS)}.",
        examples=["Mistral7BInstruct"],
    )
    accept_eula: bool | None = Field(
        default=None,
        description="true says that you have read and accept the terms of use of the base model, where "
        "it has any; must be written, true or false.",
    )
    epochs: int | None = Field(default=None, description="Passes over the training rows, 1 to 10.")
    batch_size: int | None = Field(default=None, description="Rows a step, 1 to 64.")
    learning_rate: float | None = Field(default=None, description="Learning rate, 0 to 1.")
    warmup_steps: int | None = Field(
        default=None, description="Steps in which the learning rate rises, 0 to 250."
    )
    max_runtime_per_candidate: str | None = Field(
        default=None,
        description="How long the training within the job may take; compute.max_runtime bounds the "
        "whole job.",
        examples=["6 hours"],
    )
    inference: AutopilotInference = Field(
        default=AutopilotInference(), description="How its models are asked for their answers."
    )

    # TextGenerationJobConfig, SageMaker API reference
    _epochs = within("epochs", least=1, most=10)
    _batch_size = within("batch_size", least=1, most=64)
    _learning_rate = within("learning_rate", above=0, most=1)
    _warmup = within("warmup_steps", least=0, most=250)

    @field_validator("max_runtime_per_candidate")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None and parse_duration(value).total_seconds() < 1:
            raise ValueError("must be longer than nothing")
        return value

    @model_validator(mode="after")
    def _terms_are_accepted(self) -> "Autopilot":
        base_model = self.base_model or DEFAULT_BASE_MODEL
        if self.accept_eula is None:
            raise ValueError(
                "accept_eula must be written: true if you have read and accept the terms of use of "
                f"{base_model}, false if it has none"
            )
        if needs_eula(base_model) and not self.accept_eula:
            raise ValueError(
                f"{base_model} has terms of use (an EULA): read them, and set accept_eula to true"
            )
        return self

    def hyperparameters(self) -> dict[str, str]:
        """The hyperparameters that are set, by the API's names, as the strings that it takes."""
        wanted = {
            "epochCount": self.epochs,
            "batchSize": self.batch_size,
            "learningRate": self.learning_rate,
            "learningRateWarmupSteps": self.warmup_steps,
        }
        return {name: f"{value:.10g}" for name, value in wanted.items() if value is not None}
