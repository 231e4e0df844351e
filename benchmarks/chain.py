"""The house_prices chain for one week: through Dagster, against the same work as plain functions.

Both land the same weeks in a fresh warehouse, run dbt's command line over them, export the dataset,
train, and score the model. CPU seconds, those of the training job included.
"""

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measure import measured

_REPEATS = 3
_WEEKS = ("2014-09-08", "2015-01-05")
_WEEK = "2014-12-29"
_ROOT = Path(__file__).resolve().parents[1]


def through_dagster() -> None:
    import dagster as dg

    from sf_sagemaker.definitions import defs

    job = defs().resolve_implicit_global_asset_job_def()
    tags = {
        "dagster/asset_partition_range_start": _WEEKS[0],
        "dagster/asset_partition_range_end": _WEEKS[1],
    }

    def keys(*names: str) -> list[dg.AssetKey]:
        return [dg.AssetKey(name.split("/")) for name in names]

    with dg.DagsterInstance.get() as instance:
        features = keys(
            "raw/house_sales", "staging/stg_house_sales", "features/house_price_features"
        )
        job.execute_in_process(asset_selection=features, instance=instance, tags=tags)
        models = keys("house_prices/sampled_training_dataset", "house_prices/trained_xgboost_model")
        job.execute_in_process(asset_selection=models, instance=instance, partition_key=_WEEK)


def as_plain_functions() -> None:
    from datetime import datetime

    from benchmarks.house_prices import land_and_build
    from sf_sagemaker.containers import program_files
    from sf_sagemaker.containers.xgboost.model import load_model
    from sf_sagemaker.deployment import home
    from sf_sagemaker.lifecycle.baseline import fit_baseline
    from sf_sagemaker.lifecycle.scores import score
    from sf_sagemaker.periods import Cadence
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.run import run_training_job
    from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
    from sf_sagemaker.warehouse.export import export_dataset, read_rows, read_split

    warehouse, storage = DuckDBWarehouse(home() / "warehouse.duckdb"), LocalStorage(home() / "s")
    cadence = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
    land_and_build(warehouse, cadence, _WEEKS)
    spec = DatasetSpec(
        model="house_prices",
        source=Relation(schema_name="features", name="house_price_features"),
        row_key=("parcel_id", "sale_date"),
        split_key=("parcel_id",),
        event_time="sale_date",
        target="price",
        target_kind="positive",
        window="17 weeks",
        seed=7,
    )
    export = export_dataset(warehouse, storage, spec, cadence, _WEEK, attempt="a")
    platform = LocalTrainingPlatform(storage)
    job = TrainingJob(
        model=spec.model,
        partition=_WEEK,
        program=Program(*program_files("xgboost")),
        image=platform.image("xgboost"),
        dataset_fingerprint=export.manifest.fingerprint.value,
        channels=dataset_channels(export.key),
        hyperparameters={
            "objective": "reg:squarederror", "num_round": "400", "early_stopping_rounds": "30",
            "max_depth": "6", "eta": "0.08", "min_child_weight": "3.0", "subsample": "0.8",
            "colsample_bytree": "0.7", "target_transform": "log", "seed": "7",
        },
        seed=7,
    )  # fmt: skip
    result = run_training_job(job, platform, poll_seconds=1.0)
    model = load_model(platform.fetch_artifact(result.name, home() / "model"))
    manifest, key = export.manifest, export.key
    train = read_split(storage, manifest, key, "train", columns=["price", "zip_code"])
    baseline = fit_baseline(train, "price", by="zip_code", classes=None)
    following = cadence.following(cadence.period(_WEEK))
    assert following is not None
    for rows in (
        read_split(storage, manifest, key, "validation"),
        read_split(storage, manifest, key, "test"),
        read_rows(warehouse, spec, following.start, following.end),
    ):
        score(model, baseline, rows, "price", classes=None, positive=True)


def main() -> None:
    """Prints both, and their ratio."""
    ways: dict[str, list[float]] = {"as_plain_functions": [], "through_dagster": []}
    for _ in range(_REPEATS):
        for way, seconds in ways.items():
            with tempfile.TemporaryDirectory() as home:
                (Path(home) / "dagster").mkdir()
                cost = measured(
                    ["-m", "benchmarks.chain", way],
                    SF_SAGEMAKER_HOME=home,
                    DAGSTER_HOME=f"{home}/dagster",
                )
            seconds.append(cost.cpu_seconds)
    plain, dagster = (median(seconds) for seconds in ways.values())
    print(f"| plain functions | {plain:.1f} CPU s |")
    print(f"| through Dagster | {dagster:.1f} CPU s |")
    print(f"| ratio | {dagster / plain:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.environ.setdefault("DO_NOT_TRACK", "1")
        {"as_plain_functions": as_plain_functions, "through_dagster": through_dagster}[
            sys.argv[1]
        ]()
    else:
        main()
