"""An XGBoost model over a dbt model: its training dataset, its training job, its first evaluation."""

from typing import Literal

import dagster as dg
from pydantic import Field, model_validator

from sf_sagemaker.components.errors import invalid_attribute, suggest
from sf_sagemaker.components.hyperparameters import XGBoostHyperparameters
from sf_sagemaker.components.lifecycle_attributes import Evaluation
from sf_sagemaker.components.model_component import ModelComponent
from sf_sagemaker.components.xgboost_report import Judgement, xgboost_kind
from sf_sagemaker.containers.metrics import METRICS
from sf_sagemaker.containers.xgboost.hyperparameters import parse_hyperparameters
from sf_sagemaker.warehouse.dataset import TargetKind


class BaselineEvaluation(Evaluation):
    """How the model is judged, beside a baseline when it is new and on later rows ever after."""

    baseline_by: str | None = Field(
        default=None,
        description="Column whose groups the baseline answers for: the median of the target in the "
        "group, or its classes' rates. One answer for all rows without it.",
        examples=["zip_code"],
    )


class XGBoostModel(ModelComponent):
    """An XGBoost model of one column of a dbt model, trained by partition.

    Gives the assets `sampled_training_dataset`, `trained_xgboost_model`, `evaluation`, `champion` and
    `decay_curve` of its name, their checks, the jobs `<name>_training` and `<name>_update`, and what
    starts them.
    """

    target: str = Field(description="Column to predict.")
    target_transform: Literal["none", "log"] = Field(
        default="none", description="log trains on the logarithm of a positive target."
    )
    features: list[str] | None = Field(
        default=None,
        description="Columns to learn from; without them, all that have no other role and aren't "
        "excluded.",
    )
    exclude: list[str] = Field(default=[], description="Columns that are not features.")
    hyperparameters: XGBoostHyperparameters = Field(
        default=XGBoostHyperparameters(), description="What XGBoost trains with."
    )
    evaluation: BaselineEvaluation = Field(
        default=BaselineEvaluation(), description="How the model is judged."
    )

    @model_validator(mode="after")
    def _objective_and_transform_go_together(self) -> "XGBoostModel":
        parse_hyperparameters(self._training_hyperparameters())
        return self

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The model's assets, checks and job."""
        relation, source_key = self.resolve_source(context)
        spec = self.dataset_spec(
            relation,
            target=self.target,
            target_kind=self._target_kind(),
            features=self.features,
            exclude=self.exclude,
        )
        judgement = Judgement(self._metric(context), self.evaluation.baseline_by)
        return self.definitions(
            context,
            xgboost_kind(judgement, spec),
            spec,
            source_key,
            self._training_hyperparameters(),
        )

    def columns_named(self) -> dict[str, list[str]]:
        by = self.evaluation.baseline_by
        return {
            **super().columns_named(),
            "target": [self.target],
            "features": self.features or [],
            "exclude": self.exclude,
            "evaluation.baseline_by": [by] if by else [],
        }

    def _training_hyperparameters(self) -> dict[str, str]:
        return {
            **self.hyperparameters.strings(),
            "target_transform": self.target_transform,
            "seed": str(self.sample.seed),
        }

    def _target_kind(self) -> TargetKind:
        if self.hyperparameters.classification:
            return "class"
        return "positive" if self.target_transform == "log" else "numeric"

    def _metric(self, context: dg.ComponentLoadContext) -> str:
        classification = self.hyperparameters.classification
        default = "log_loss" if classification else "median_absolute_percentage_error"
        metric = self.evaluation.metric or default
        task = "classification" if classification else "regression"
        allowed = [
            name
            for name, known in METRICS.items()
            if task in known.functions and known.better != "nearer zero"
        ]
        if metric not in allowed:
            raise invalid_attribute(
                context,
                "evaluation.metric",
                f"{metric!r} is not a metric for {self.hyperparameters.objective}. "
                f"{suggest(metric, allowed)}",
            )
        return metric
