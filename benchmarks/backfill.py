"""`make decay`, the backfill of all weeks of house_prices, against the same work as plain functions.

Both land all weeks in a fresh warehouse, run dbt over them, export every dataset, train every model,
two at a time, evaluate every week and fit the decay curve. CPU seconds, training jobs included.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Cost, measured

_ROOT = Path(__file__).resolve().parents[1]
_WEEKS = ("2014-04-28", "2015-05-25")


def as_plain_functions() -> None:
    from datetime import UTC, datetime

    import yaml

    from benchmarks.house_prices import land_and_build
    from sf_sagemaker.components import XGBoostModel
    from sf_sagemaker.containers import program_files
    from sf_sagemaker.deployment import home
    from sf_sagemaker.lifecycle.decay_curve import (
        decay_curve,
        freshness_window,
        measure_ages,
        read_period_outcomes,
    )
    from sf_sagemaker.lifecycle.evaluation import read_evaluations
    from sf_sagemaker.lifecycle.period_evaluation import Predictors, evaluate_period
    from sf_sagemaker.lifecycle.registry import describe_model, newest_models, register_model
    from sf_sagemaker.lifecycle.scorers import XGBoostScorer
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.run import TRAINING, run_job
    from sf_sagemaker.warehouse.dataset import Relation
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
    from sf_sagemaker.warehouse.export import Export, export_dataset

    shipped = (_ROOT / "sf_sagemaker" / "defs" / "house_prices" / "defs.yaml").read_text()
    model = XGBoostModel.resolve_from_yaml(yaml.dump(yaml.safe_load(shipped)["attributes"]))
    spec = model.dataset_spec(
        Relation(schema_name="features", name="house_price_features"),
        target=model.target,
        target_kind="positive",
        features=model.features,
        exclude=model.exclude,
    )
    cadence = model.partitions.cadence()
    warehouse, storage = DuckDBWarehouse(home() / "warehouse.duckdb"), LocalStorage(home() / "s")
    platform = LocalTrainingPlatform(storage)
    weeks = list(cadence.between(cadence.period(_WEEKS[0]).start, cadence.period(_WEEKS[1]).end))
    land_and_build(warehouse, cadence, _WEEKS)
    hyperparameters = {
        **model.hyperparameters.strings(),
        "target_transform": model.target_transform,
        "seed": str(spec.seed),
    }

    def train(export: Export) -> None:
        job = TrainingJob(
            model=spec.model,
            partition=export.manifest.partition,
            program=Program(*program_files("xgboost")),
            image=platform.image("xgboost"),
            dataset_fingerprint=export.manifest.fingerprint.value,
            channels=dataset_channels(export.key),
            hyperparameters=hyperparameters,
            seed=spec.seed,
        )
        result = run_job(job, platform, TRAINING)
        entry = describe_model(
            export.manifest,
            export.key,
            training_job=result.name,
            artifact_uri=result.description.artifact_uri or "",
            trained_at=datetime.now(UTC).isoformat(),
        )
        register_model(storage, entry)

    exports = [
        export_dataset(warehouse, storage, spec, cadence, week.key, attempt="a") for week in weeks
    ]
    with ThreadPoolExecutor(model.compute.parallel_jobs) as pool:
        list(pool.map(train, exports))
    assert model.evaluation.metric is not None
    scorer = XGBoostScorer(spec, model.evaluation.metric)
    predictors = Predictors(platform, scorer)
    for week in weeks[1:]:
        evaluate_period(
            warehouse,
            storage,
            spec,
            cadence,
            week.key,
            predictors,
            max_age=model.evaluation.oldest(cadence),
            evaluated_at=datetime.now(UTC),
        )
    outcomes = read_period_outcomes(
        storage,
        read_evaluations(storage, spec.model),
        newest_models(storage, spec.model).values(),
    )
    matrix = measure_ages(scorer.measure, outcomes, cadence, seed=spec.seed)
    tolerance = model.decay.max_relative_excess_error
    curve = decay_curve(matrix, tolerance=tolerance, seed=spec.seed)
    freshness_window(curve, cadence, label_delay=spec.label_delay)


def main() -> None:
    """Prints both, once each, and their ratio."""
    ways = {
        "plain functions": ["-m", "benchmarks.backfill", "plain"],
        "make decay": ["-m", "sf_sagemaker.commands.decay"],
    }
    costs: dict[str, Cost] = {}
    print("| way | CPU s | seconds |\n|---|---|---|")
    for way, arguments in ways.items():
        with tempfile.TemporaryDirectory() as home:
            (Path(home) / "dagster").mkdir()
            cost = costs[way] = measured(
                arguments, SF_SAGEMAKER_HOME=home, DAGSTER_HOME=f"{home}/dagster"
            )
        print(f"| {way} | {cost.cpu_seconds:.0f} | {cost.wall_seconds:.0f} |", flush=True)
    plain, dagster = costs.values()
    print(f"| ratio | {dagster.cpu_seconds / plain.cpu_seconds:.2f} | |")


if __name__ == "__main__":
    if sys.argv[1:] == ["plain"]:
        os.environ.setdefault("DO_NOT_TRACK", "1")
        as_plain_functions()
    else:
        main()
