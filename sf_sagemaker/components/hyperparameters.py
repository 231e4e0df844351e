"""XGBoost's hyperparameters as typed attributes, so that a misspelling is an error and not a warning.

Names and meanings: XGBoost documentation, "XGBoost Parameters".
"""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sf_sagemaker.components.component import Attributes
from sf_sagemaker.containers.xgboost.hyperparameters import OBJECTIVES, parse_hyperparameters


class XGBoostHyperparameters(Attributes):
    """What XGBoost trains with. Anything left out has XGBoost's own default."""

    objective: str = Field(
        default="reg:squarederror",
        description=f"Learning objective; decides the kind of model. One of {', '.join(OBJECTIVES)}.",
    )
    num_round: int = Field(default=200, description="Boosting rounds at most.")
    early_stopping_rounds: int | None = Field(
        default=20,
        description="Stop after so many rounds without a better validation metric; null trains all rounds.",
    )
    eval_metric: str | None = Field(
        default=None,
        description="XGBoost's metric for early stopping; the objective's own one without it.",
    )
    eta: float | None = Field(default=None, description="Step size shrinkage.")
    max_depth: int | None = Field(default=None, description="Depth of a tree.")
    max_leaves: int | None = Field(default=None, description="Leaves of a tree at most.")
    grow_policy: Literal["depthwise", "lossguide"] | None = Field(
        default=None, description="Where a tree grows next."
    )
    min_child_weight: float | None = Field(
        default=None, description="Least sum of instance weight in a child."
    )
    gamma: float | None = Field(
        default=None, description="Least loss reduction that makes a split."
    )
    subsample: float | None = Field(default=None, description="Share of the rows that a tree sees.")
    colsample_bytree: float | None = Field(
        default=None, description="Share of the features that a tree sees."
    )
    colsample_bylevel: float | None = Field(
        default=None, description="Share of the features that a level sees."
    )
    colsample_bynode: float | None = Field(
        default=None, description="Share of the features that a split sees."
    )
    reg_lambda: float | None = Field(default=None, description="L2 regularization.")
    reg_alpha: float | None = Field(default=None, description="L1 regularization.")
    max_bin: int | None = Field(default=None, description="Bins of a feature's histogram.")
    max_delta_step: float | None = Field(
        default=None, description="Largest step of a leaf's weight."
    )
    max_cat_to_onehot: int | None = Field(
        default=None, description="Categories up to which a split is one against the rest."
    )
    scale_pos_weight: float | None = Field(
        default=None, description="Weight of the positive class."
    )
    max_cat_threshold: int | None = Field(
        default=None, description="Categories that a split considers at most."
    )
    num_parallel_tree: int | None = Field(default=None, description="Trees in each round.")
    base_score: float | None = Field(default=None, description="Prediction before the first tree.")
    monotone_constraints: str | None = Field(
        default=None, description="Direction for each feature.", examples=["(1,0,-1)"]
    )
    interaction_constraints: str | None = Field(
        default=None,
        description="Groups of features that may meet in a tree.",
        examples=["[[0,1],[2]]"],
    )
    tweedie_variance_power: float | None = Field(default=None, description="For reg:tweedie.")
    huber_slope: float | None = Field(default=None, description="For reg:pseudohubererror.")
    quantile_alpha: float | None = Field(default=None, description="For reg:quantileerror.")

    @field_validator("*")
    @classmethod
    def _is_allowed(cls, value: Any, info: ValidationInfo) -> Any:
        """The container's own parser decides, so that what loads here trains there."""
        if value is not None and info.field_name not in (None, "eval_metric"):
            parse_hyperparameters({"objective": "reg:squarederror", info.field_name: str(value)})
        return value

    @model_validator(mode="after")
    def _go_together(self) -> "XGBoostHyperparameters":
        parse_hyperparameters(self.strings())
        return self

    @property
    def classification(self) -> bool:
        return OBJECTIVES[self.objective].task != "regression"

    def strings(self) -> dict[str, str]:
        """The hyperparameters that are set, as the strings that a training container gets."""
        set_ones = self.model_dump(exclude_none=True)
        return {name: str(value) for name, value in set_ones.items()}
