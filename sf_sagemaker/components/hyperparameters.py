"""XGBoost's hyperparameters as typed attributes, so that a misspelling is an error and not a warning.

Names and meanings: XGBoost documentation, "XGBoost Parameters".
"""

from typing import Literal

import dagster as dg
from pydantic import Field

RegressionObjective = Literal[
    "reg:squarederror",
    "reg:squaredlogerror",
    "reg:absoluteerror",
    "reg:pseudohubererror",
    "reg:gamma",
    "reg:tweedie",
    "count:poisson",
]
ClassificationObjective = Literal["binary:logistic", "multi:softprob"]


class XGBoostHyperparameters(dg.Model, dg.Resolvable):
    """What XGBoost trains with. Anything left out has XGBoost's own default."""

    objective: RegressionObjective | ClassificationObjective = Field(
        default="reg:squarederror", description="Learning objective; decides the kind of model."
    )
    num_round: int = Field(default=200, ge=1, le=100_000, description="Boosting rounds at most.")
    early_stopping_rounds: int | None = Field(
        default=20,
        ge=1,
        description="Stop after so many rounds without a better validation metric; null trains all rounds.",
    )
    eval_metric: str | None = Field(
        default=None,
        description="XGBoost's metric for early stopping; the objective's own one without it.",
    )
    eta: float | None = Field(default=None, gt=0, le=1, description="Step size shrinkage.")
    max_depth: int | None = Field(default=None, ge=0, le=64, description="Depth of a tree.")
    max_leaves: int | None = Field(default=None, ge=0, description="Leaves of a tree at most.")
    grow_policy: Literal["depthwise", "lossguide"] | None = Field(
        default=None, description="Where a tree grows next."
    )
    min_child_weight: float | None = Field(
        default=None, ge=0, description="Least sum of instance weight in a child."
    )
    gamma: float | None = Field(
        default=None, ge=0, description="Least loss reduction that makes a split."
    )
    subsample: float | None = Field(
        default=None, gt=0, le=1, description="Share of the rows that a tree sees."
    )
    colsample_bytree: float | None = Field(
        default=None, gt=0, le=1, description="Share of the features that a tree sees."
    )
    colsample_bylevel: float | None = Field(
        default=None, gt=0, le=1, description="Share of the features that a level sees."
    )
    colsample_bynode: float | None = Field(
        default=None, gt=0, le=1, description="Share of the features that a split sees."
    )
    reg_lambda: float | None = Field(
        default=None, ge=0, alias="lambda", description="L2 regularization."
    )
    reg_alpha: float | None = Field(
        default=None, ge=0, alias="alpha", description="L1 regularization."
    )
    max_bin: int | None = Field(default=None, ge=2, description="Bins of a feature's histogram.")
    max_delta_step: float | None = Field(
        default=None, ge=0, description="Largest step of a leaf's weight."
    )
    max_cat_to_onehot: int | None = Field(
        default=None, ge=1, description="Categories up to which a split is one against the rest."
    )
    scale_pos_weight: float | None = Field(
        default=None, gt=0, description="Weight of the positive class."
    )
    tweedie_variance_power: float | None = Field(
        default=None, gt=1, lt=2, description="For reg:tweedie."
    )

    @property
    def classification(self) -> bool:
        return self.objective.startswith(("binary:", "multi:"))

    def strings(self) -> dict[str, str]:
        """The hyperparameters that are set, as the strings that a training container gets."""
        set_ones = self.model_dump(exclude_none=True, by_alias=True)
        return {name: str(value) for name, value in set_ones.items()}
