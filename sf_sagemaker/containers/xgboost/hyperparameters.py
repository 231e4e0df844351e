"""The strings that a training job carries, as XGBoost's typed parameters.

XGBoost ignores a parameter that it doesn't know; here it is an error. Names, types and ranges:
XGBoost documentation, "XGBoost Parameters".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sf_sagemaker.containers.hyperparameters import (
    InvalidHyperparameter,
    choice,
    number,
    read_value,
    suggestion,
    unknown,
    whole,
)

Transform = Literal["none", "log"]


@dataclass(frozen=True)
class Objective:
    """A learning objective: what kind of model it makes, and which labels it takes.

    Labels lie between `low` and `high`, which is itself allowed unless `low_excluded`.
    """

    task: Literal["regression", "binary", "multiclass"]
    metrics: tuple[str, ...]
    low: float = float("-inf")
    high: float = float("inf")
    low_excluded: bool = False

    @property
    def any_label(self) -> bool:
        return self.task == "regression" and self.low == float("-inf")

    def allows(self, low: float, high: float) -> bool:
        """Whether labels from `low` to `high` are all allowed."""
        return (low > self.low if self.low_excluded else low >= self.low) and high <= self.high

    @property
    def label_range(self) -> str:
        left = "(" if self.low_excluded else "["
        return f"{left}{self.low:g}, {self.high:g}]"


_ERRORS = ("rmse", "mae", "mape", "rmsle", "mphe")
OBJECTIVES: Mapping[str, Objective] = {
    "reg:squarederror": Objective("regression", _ERRORS),
    "reg:absoluteerror": Objective("regression", _ERRORS),
    "reg:pseudohubererror": Objective("regression", _ERRORS),
    "reg:quantileerror": Objective("regression", ("quantile", *_ERRORS)),
    "reg:squaredlogerror": Objective("regression", _ERRORS, low=-1, low_excluded=True),
    "reg:logistic": Objective("regression", ("rmse", "mae", "logloss"), low=0, high=1),
    "reg:gamma": Objective(
        "regression", ("gamma-nloglik", "gamma-deviance", *_ERRORS), low=0, low_excluded=True
    ),
    "reg:tweedie": Objective("regression", ("tweedie-nloglik", *_ERRORS), low=0),
    "count:poisson": Objective("regression", ("poisson-nloglik", *_ERRORS), low=0),
    "binary:logistic": Objective("binary", ("logloss", "error", "auc", "aucpr"), low=0, high=1),
    "multi:softprob": Objective("multiclass", ("mlogloss", "merror", "auc"), low=0),
}
MAXIMIZED_METRICS = ("auc", "aucpr")


_share = number(0, 1, excluded="low")
_BOOSTER: Mapping[str, Callable[[str], Any]] = {
    "eta": _share,
    "gamma": number(0),
    "max_depth": whole(0),
    "max_leaves": whole(0),
    "min_child_weight": number(0),
    "max_delta_step": number(0),
    "subsample": _share,
    "sampling_method": choice("uniform", "gradient_based"),
    "colsample_bytree": _share,
    "colsample_bylevel": _share,
    "colsample_bynode": _share,
    "lambda": number(0),
    "alpha": number(0),
    "scale_pos_weight": number(0, excluded="low"),
    "grow_policy": choice("depthwise", "lossguide"),
    "max_bin": whole(2),
    "num_parallel_tree": whole(1),
    "monotone_constraints": str,
    "interaction_constraints": str,
    "max_cat_to_onehot": whole(1),
    "max_cat_threshold": whole(1),
    "base_score": number(float("-inf")),
    "tweedie_variance_power": number(1, 2, excluded="low high"),
    "huber_slope": number(0, excluded="low"),
    "quantile_alpha": number(0, 1, excluded="low high"),
}
_ALIASES = {
    "learning_rate": "eta",
    "min_split_loss": "gamma",
    "reg_lambda": "lambda",
    "reg_alpha": "alpha",
}
_OWN: Mapping[str, Callable[[str], Any]] = {
    "objective": choice(*OBJECTIVES),
    "num_round": whole(1),
    "early_stopping_rounds": whole(1),
    "target_transform": choice("none", "log"),
    "seed": whole(0),
    "eval_metric": str,
}


@dataclass(frozen=True)
class Hyperparameters:
    """What decides a training, besides its data. `booster` goes to XGBoost as it is.

    `eval_metric` None is the objective's own metric. It alone decides early stopping.
    """

    objective: str
    num_round: int
    early_stopping_rounds: int | None
    target_transform: Transform
    seed: int
    eval_metric: str | None
    booster: Mapping[str, Any]

    @property
    def task(self) -> Literal["regression", "binary", "multiclass"]:
        return OBJECTIVES[self.objective].task

    @property
    def checkpoint_rounds(self) -> int:
        """A checkpoint is written after every so many rounds."""
        return max(1, min(50, self.num_round // 10))

    @property
    def random(self) -> bool:
        """Whether trees see samples of rows or columns, so that the seed matters."""
        shares = (self.booster.get(name, 1.0) for name in self.booster if "sample" in name)
        return any(share != 1.0 for share in shares)


def parse_hyperparameters(strings: Mapping[str, str]) -> Hyperparameters:
    """The hyperparameters that a job's strings say. Raises InvalidHyperparameter."""
    own: dict[str, Any] = {}
    booster: dict[str, Any] = {}
    for given, text in strings.items():
        name = _ALIASES.get(given, given)
        known, values = (_OWN, own) if name in _OWN else (_BOOSTER, booster)
        if name not in known:
            raise unknown(given, [*_OWN, *_BOOSTER, *_ALIASES])
        if name in values:
            raise InvalidHyperparameter(f"{given} and another name for it are both given")
        values[name] = read_value(given, text, known[name])
    if "objective" not in own:
        raise InvalidHyperparameter(
            f"objective is missing: expected one of {', '.join(OBJECTIVES)}"
        )
    parsed = Hyperparameters(
        objective=own["objective"],
        num_round=own.get("num_round", 100),
        early_stopping_rounds=own.get("early_stopping_rounds"),
        target_transform=own.get("target_transform", "none"),
        seed=own.get("seed", 0),
        eval_metric=own.get("eval_metric"),
        booster=booster,
    )
    _check_combination(parsed)
    return parsed


def _check_combination(parsed: Hyperparameters) -> None:
    objective = OBJECTIVES[parsed.objective]
    # A metric's parameter, as in error@0.7, is not part of its name.
    if parsed.eval_metric and parsed.eval_metric.split("@")[0] not in objective.metrics:
        raise InvalidHyperparameter(
            f"eval_metric is {parsed.eval_metric!r}: for {parsed.objective} expected one of "
            f"{', '.join(objective.metrics)}{suggestion(parsed.eval_metric, objective.metrics)}"
        )
    if parsed.target_transform == "log" and not objective.any_label:
        allowed = [name for name, other in OBJECTIVES.items() if other.any_label]
        raise InvalidHyperparameter(
            f"target_transform log does not go with {parsed.objective}: expected one of "
            f"{', '.join(allowed)}, or target_transform none"
        )
    if parsed.objective == "reg:quantileerror" and "quantile_alpha" not in parsed.booster:
        raise InvalidHyperparameter("reg:quantileerror needs quantile_alpha, such as 0.5")
