"""Weekly streams of labelled rows, scored once by every model that a policy could have in force.

The sales of King County as the demo prepares them, and synthetic ones whose drift is known. A model of
each week is trained once for all policies; the reference beside it is the evaluation's own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import xgboost as xgb
import yaml

from sf_sagemaker.components.xgboost_model import XGBoostModel
from sf_sagemaker.containers.xgboost.boosting import labels
from sf_sagemaker.containers.xgboost.features import Feature, Target, encode_features, encode_target
from sf_sagemaker.containers.xgboost.hyperparameters import parse_hyperparameters
from sf_sagemaker.lifecycle.outcomes import Outcomes
from sf_sagemaker.lifecycle.scorers import XGBoostScorer, feature_names, row_digests
from sf_sagemaker.periods import Cadence, periods_in
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.export import read_rows
from sf_sagemaker.warehouse.landing import land_periods

_ROOT = Path(__file__).resolve().parents[1]
Drift = Literal["none", "linear", "abrupt", "relation"]


def shipped_model(changes: Mapping[str, object]) -> XGBoostModel:
    """House prices as they are configured here; a change names an attribute as decay.max_bias."""
    file = _ROOT / "sf_sagemaker" / "defs" / "house_prices" / "defs.yaml"
    attributes = yaml.safe_load(file.read_text())["attributes"]
    for name, value in changes.items():
        group, _, attribute = name.rpartition(".")
        (attributes[group] if group else attributes)[attribute] = value
    return XGBoostModel.model_validate(attributes)


@dataclass(frozen=True)
class ScoredStream:
    """All rows of a stream, n of them, in the order of their weeks, and what each model says of them.

    `weeks` holds the number of each row's week. `predicted` is by the number of the week that a model
    was trained for: shape (n,), NaN for the rows before its window. `reference` is each week's own.
    """

    cadence: Cadence
    window: int
    weeks: np.ndarray
    rows: np.ndarray
    splits: np.ndarray
    actual: np.ndarray
    predicted: Mapping[int, np.ndarray]
    reference: np.ndarray

    @property
    def first(self) -> int:
        """The first week whose window is full."""
        return self.window - 1

    @property
    def last(self) -> int:
        return int(self.weeks[-1])

    def outcomes(self, predictor: int | str, chosen: np.ndarray) -> Outcomes:
        """Of the model of a week, or of REFERENCE, on the rows that a mask chooses."""
        predicted = self.reference if isinstance(predictor, str) else self.predicted[predictor]
        everything = Outcomes(self.rows, self.splits, self.actual, predicted)
        return everything.take(chosen)


def build_features(warehouse: Path, cadence: Cadence) -> None:
    """Lands all weeks of the sales in a new DuckDB file, and builds their features with dbt."""
    raw = Relation(schema_name="raw", name="house_sales")
    sales = _ROOT / "data" / "king_county_house_sales.parquet"
    periods = cadence.between(cadence.start, datetime.max)
    list(land_periods(DuckDBWarehouse(warehouse), raw, sales, "sale_date", periods))
    bounds = {"period_start": f"{cadence.start:%Y-%m-%d}", "period_end": f"{cadence.end:%Y-%m-%d}"}
    home = warehouse.parent
    subprocess.run(
        [
            str(Path(sys.executable).with_name("dbt")), "run", "--select", "house_prices",
            "--vars", json.dumps(bounds),
            "--target-path", str(home / "dbt"), "--log-path", str(home / "logs"),
        ],
        cwd=_ROOT / "dbt_project",
        env={**os.environ, "SF_SAGEMAKER_HOME": str(home), "DO_NOT_TRACK": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def house_sales(warehouse: Path, model: XGBoostModel, seed: int) -> ScoredStream:
    """The real sales. The seed decides which parcels are trained on, and seeds the trainings."""
    source = Relation(schema_name="features", name="house_price_features")
    spec = _spec(model, source, model.row_key).model_copy(
        update={"seed": seed, "salt": f"split {seed}"}
    )
    cadence = model.partitions.cadence()
    assert cadence.end is not None, "the data end"
    rows = read_rows(DuckDBWarehouse(warehouse), spec, cadence.start, cadence.end)
    return _score(rows, spec, model)


def synthetic_sales(model: XGBoostModel, drift: Drift, size: float, seed: int) -> ScoredStream:
    """As many sales a week as in King County, of six features, with noise of a fifth.

    linear: the level of the log price rises by `size` a week. abrupt: it rises by `size` at once, three
    fifths through the stream. relation: it stays, and what one feature is worth changes by `size` a
    week over its range, so that prices of one kind rise as others fall. none: nothing changes.
    """
    cadence = model.partitions.cadence()
    keys = [period.key for period in cadence.between(cadence.start, datetime.max)]
    random = np.random.default_rng(seed)
    week = np.repeat(np.arange(len(keys)), 386)
    features = random.uniform(size=(6, len(week)))
    shape = 1.5 * features[0] + np.sin(6 * features[1]) + features[2] * features[3]
    changed = {
        "none": 0.0,
        "linear": size * week,
        "abrupt": size * (week >= 3 * len(keys) // 5),
        "relation": size * week * (features[4] - 0.5),
    }[drift]
    noise = random.normal(scale=0.2, size=len(week))
    starts = np.array(keys, dtype="datetime64[D]")
    columns = {
        "sale": pa.array(np.arange(len(week))),
        model.event_time: pa.array(starts[week]),
        model.target: pa.array(np.exp(12 + shape + changed + noise)),
        **{f"f{n}": pa.array(values) for n, values in enumerate(features)},
        "split": pa.array(
            random.choice(["train", "validation", "test"], len(week), p=[0.8, 0.1, 0.1])
        ),
    }
    spec = _spec(model, Relation(name="synthetic"), ["sale"]).model_copy(
        update={"seed": seed, "split_key": ("sale",)}
    )
    return _score(pa.table(columns), spec, model)


def _spec(model: XGBoostModel, source: Relation, row_key: list[str]) -> DatasetSpec:
    spec = model.dataset_spec(
        source,
        target=model.target,
        target_kind="positive",
        features=model.features,
        exclude=model.exclude,
    )
    return spec.model_copy(update={"row_key": tuple(row_key)})


def _score(rows: pa.Table, spec: DatasetSpec, model: XGBoostModel) -> ScoredStream:
    cadence, window = model.partitions.cadence(), periods_in(spec.window, "week")
    days = rows[spec.event_time].to_numpy().astype("datetime64[D]")
    weeks = (days - np.datetime64(cadence.start, "D")).astype(int) // 7
    order = np.argsort(weeks, kind="stable")
    rows, weeks = rows.take(order), weeks[order]
    splits = np.array(rows["split"].to_pylist())

    target = Target(spec.target, "log", classes=None, positive=True)
    features = [_feature(rows, name) for name in feature_names(spec, rows.column_names)]
    matrix, actual = encode_features(rows, features).T, encode_target(rows, target)
    scorer = XGBoostScorer(spec, model.evaluation.metric or "median_absolute_percentage_error")
    predicted: dict[int, np.ndarray] = {}
    reference = np.full(len(weeks), np.nan)
    for week in range(window - 1, int(weeks[-1])):
        inside = (weeks > week - window) & (weeks <= week)
        following = weeks == week + 1
        known = scorer.fit_reference(rows.filter(pa.array(inside)))
        reference[following] = known.outcomes(rows.filter(pa.array(following))).predicted
        booster = _train(matrix, actual, inside, splits, features, model, spec.seed)
        later = weeks > week - window
        predicted[week] = np.full(len(weeks), np.nan)
        raw = booster.inplace_predict(matrix[later], missing=np.nan, validate_features=False)
        predicted[week][later] = np.exp(raw)
    return ScoredStream(
        cadence=cadence,
        window=window,
        weeks=weeks,
        rows=row_digests(rows, spec.row_key),
        splits=splits,
        actual=actual,
        predicted=predicted,
        reference=reference,
    )


def _feature(rows: pa.Table, name: str) -> Feature:
    if not pa.types.is_string(rows[name].type):
        return Feature(name, "numeric")
    return Feature(name, "categorical", tuple(sorted(rows[name].unique().to_pylist())))


def _train(
    matrix: np.ndarray,
    actual: np.ndarray,
    inside: np.ndarray,
    splits: np.ndarray,
    features: list[Feature],
    model: XGBoostModel,
    seed: int,
) -> xgb.Booster:
    """What the container program trains, without its files, checkpoints and hosts."""
    own = {"target_transform": model.target_transform, "seed": str(seed)}
    hyperparameters = parse_hyperparameters({**model.hyperparameters.strings(), **own})
    parameters = {
        **hyperparameters.booster,
        "objective": hyperparameters.objective,
        "seed": hyperparameters.seed,
        "tree_method": "hist",
        "nthread": 1,
    }

    def quantized(split: str, reference: xgb.QuantileDMatrix | None = None) -> xgb.QuantileDMatrix:
        chosen = inside & (splits == split)
        return xgb.QuantileDMatrix(
            matrix[chosen],
            labels(actual[chosen], hyperparameters.target_transform),
            feature_types=[feature.type_code for feature in features],
            ref=reference,
            enable_categorical=True,
            nthread=1,
        )

    train = quantized("train")
    booster = xgb.train(
        parameters,
        train,
        num_boost_round=hyperparameters.num_round,
        evals=[(quantized("validation", train), "validation")],
        early_stopping_rounds=hyperparameters.early_stopping_rounds,
        verbose_eval=False,
    )
    return booster[: booster.best_iteration + 1]
