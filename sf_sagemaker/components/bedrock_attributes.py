"""Attributes for the comparison of a fine-tuned language model with Claude."""

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.serving.bedrock_batch import LEAST_RECORDS
from sf_sagemaker.serving.bedrock_budget import Budget, Prices

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]{0,2047}")
_SENT = ("prompt", "completion")
_LEAST_BATCH = LEAST_RECORDS + 20  # the first 20 prompts of a batch are asked one by one


class ClaudeBudget(Attributes):
    """What the answers about one partition may take, those of earlier runs included."""

    tokens: int | None = Field(
        default=None, description="Tokens, read and written together.", examples=[2_000_000]
    )
    cost: float | None = Field(default=None, description="Money, by prices.", examples=[5.0])

    _positive = within("tokens", "cost", above=0)

    @model_validator(mode="after")
    def _bounds_something(self) -> "ClaudeBudget":
        if self.tokens is None and self.cost is None:
            raise ValueError("needs tokens, cost, or both")
        return self


class ClaudePrices(Attributes):
    """What Bedrock charges for the model, in any currency."""

    input_per_million: float | None = Field(
        default=None, description="A million tokens that the model reads; needed."
    )
    output_per_million: float | None = Field(
        default=None, description="A million tokens that it writes; needed."
    )
    batch: float = Field(
        default=0.5, description="What a batch costs of that; Bedrock's documentation says half."
    )
    currency: str = Field(default="", description="Shown beside amounts.", examples=["USD"])

    _not_negative = within("input_per_million", "output_per_million", "batch", least=0)

    @model_validator(mode="after")
    def _is_complete(self) -> "ClaudePrices":
        if self.input_per_million is None or self.output_per_million is None:
            raise ValueError("needs input_per_million and output_per_million")
        return self

    def prices(self) -> Prices:
        return Prices(self.input_per_million or 0.0, self.output_per_million or 0.0, self.batch)


class ClaudeBaseline(Attributes):
    """Claude on Amazon Bedrock, asked the same held-out rows, without and with examples.

    What is needed has a default here, so that what is missing is said in our words (dg's own say that
    the whole group fits nothing).
    """

    enabled: bool = Field(default=True, description="Whether there is a comparison.")
    model_id: str = Field(
        default="",
        description="Id or ARN of a model, or of an inference profile; needed.",
        examples=["eu.anthropic.claude-haiku-4-5-20251001-v1:0"],
    )
    budget: ClaudeBudget | None = Field(
        default=None, description="What the answers about one partition may take; needed."
    )
    prices: ClaudePrices | None = Field(
        default=None, description="What tokens cost; without it, no money is shown."
    )
    shots: int = Field(
        default=8, description="Examples from the training rows, for the answers with examples."
    )
    max_rows: int = Field(
        default=512,
        description="Rows of the test split, the first ones in an order that is random; the fine-tuned "
        "model's own report has up to 512.",
    )
    instruction: str | None = Field(
        default=None,
        description="What Claude is told before everything else; the list of answers follows by itself.",
        examples=["Name the effect of the bird strike on the flight."],
    )
    max_tokens: int | None = Field(
        default=None,
        description="Tokens of an answer; unless written, enough for the longest completion.",
    )
    temperature: float | None = Field(
        default=0.0, description="0 for the likeliest answer; null for models that take none."
    )
    parallel: int = Field(default=4, description="Prompts that are asked at a time.")
    batch_from: int | None = Field(
        default=1000,
        description="From so many rows on, batch inference is used where the deployment has S3 and "
        "SF_SAGEMAKER_BEDROCK_ROLE_ARN; null for never.",
    )
    never_send: list[str] = Field(
        default=[],
        description="Columns of the source whose values must not leave: a row whose text contains "
        "one of its own is withheld.",
        examples=[["reporter_name", "phone"]],
    )

    _counts = within("max_rows", "parallel", "max_tokens", least=1)
    _shots = within("shots", least=1, most=100)
    _temperature = within("temperature", least=0, most=1)
    _batch = within("batch_from", least=_LEAST_BATCH)

    @field_validator("model_id")
    @classmethod
    def _is_model_id(cls, value: str) -> str:
        if not _MODEL_ID.fullmatch(value):
            raise ValueError("expected the id or the ARN of a model or of an inference profile")
        return value

    @field_validator("never_send")
    @classmethod
    def _is_not_sent(cls, values: list[str]) -> list[str]:
        for name in values:
            if name.lower() in _SENT:
                raise ValueError(
                    f"{name!r} is what is sent: it can't be kept back. Leave texts that must not leave "
                    "out of it in dbt, or do without bedrock"
                )
        return values

    @model_validator(mode="after")
    def _is_complete(self) -> "ClaudeBaseline":
        if not self.model_id:
            raise ValueError("needs model_id, the id or the ARN of a model or an inference profile")
        if self.budget is None:
            raise ValueError(
                "needs a budget, with tokens, cost, or both: budget: {tokens: 2000000}"
            )
        if self.budget.cost is not None and self.prices is None:
            raise ValueError(
                "budget.cost can be kept with prices only: give prices with input_per_million and "
                "output_per_million, or bound tokens"
            )
        return self

    def allowance(self) -> Budget:
        """The budget, as the client takes it."""
        prices = self.prices.prices() if self.prices else None
        tokens, cost = (self.budget.tokens, self.budget.cost) if self.budget else (None, None)
        return Budget(tokens, cost, prices)

    def figures(self) -> dict[str, Any]:
        """What an answer depends on and where asking ends, for the metadata."""
        return self.model_dump(exclude={"enabled", "instruction"}, exclude_none=True)
