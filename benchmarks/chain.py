"""The house_prices chain for one week: through Dagster, against the same work as plain functions.

Both begin with a warehouse that holds the weeks of the window. Both land the week, run one dbt process
over it, export the dataset, train, and score the model. CPU seconds, those of dbt and of the training
job included.

Both find their modules compiled, and Dagster its own databases made, as each run after the first
does. Neither finds dbt's models parsed: dbt parses them anew whenever its variables change, and a
run's periods are variables.
"""

import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import Cost, measured

if TYPE_CHECKING:
    from sf_sagemaker.periods import Cadence

_REPEATS = 3
_WEEKS = ("2014-09-08", "2015-01-05")
_WEEK = "2014-12-29"


def prepare() -> None:
    """The weeks of the window, the one after it, which a model is scored on, and Dagster's databases."""
    import dagster as dg

    from benchmarks.house_prices import land_and_build
    from sf_sagemaker.deployment import home
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse

    land_and_build(DuckDBWarehouse(home() / "warehouse.duckdb"), _cadence(), _WEEKS)
    dg.DagsterInstance.get().dispose()


def through_dagster() -> None:
    import dagster as dg

    from sf_sagemaker.definitions import defs

    keys = [
        "raw/house_sales",
        "staging/stg_house_sales",
        "features/house_price_features",
        "house_prices/sampled_training_dataset",
        "house_prices/trained_xgboost_model",
    ]
    job = defs().resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        job.execute_in_process(
            asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
            instance=instance,
            partition_key=_WEEK,
        )


def as_plain_functions() -> None:
    from benchmarks.house_prices import land_and_build
    from sf_sagemaker.containers import program_files
    from sf_sagemaker.containers.xgboost.model import load_model
    from sf_sagemaker.deployment import home
    from sf_sagemaker.lifecycle.baseline import fit_baseline
    from sf_sagemaker.lifecycle.scores import score
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.run import TRAINING, run_job
    from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
    from sf_sagemaker.warehouse.export import export_dataset, read_rows, read_split

    warehouse, storage = DuckDBWarehouse(home() / "warehouse.duckdb"), LocalStorage(home() / "s")
    cadence = _cadence()
    land_and_build(warehouse, cadence, (_WEEK, _WEEK))
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
    result = run_job(job, platform, TRAINING, poll_seconds=1.0)
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run("prepare", folder / "prepared", folder)
        for repeat in range(-1, _REPEATS):  # the first compiles, and doesn't count
            for way, seconds in ways.items():
                home = folder / f"{way}-{repeat}"
                shutil.copytree(folder / "prepared", home)
                cost = _run(way, home, folder)
                if repeat >= 0:
                    seconds.append(cost.cpu_seconds)
    plain, dagster = (median(seconds) for seconds in ways.values())
    print(f"| plain functions | {plain:.1f} CPU s |")
    print(f"| through Dagster | {dagster:.1f} CPU s |")
    print(f"| ratio | {dagster / plain:.2f} |")


def _run(step: str, home: Path, compiled: Path) -> Cost:
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    return measured(
        ["-m", "benchmarks.chain", step],
        SF_SAGEMAKER_HOME=str(home),
        DAGSTER_HOME=str(home / "dagster"),
        PYTHONPYCACHEPREFIX=str(compiled / "compiled"),
        PYTHONDONTWRITEBYTECODE="",
        DO_NOT_TRACK="1",
    )


def _cadence() -> "Cadence":
    from sf_sagemaker.periods import Cadence

    return Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {f.__name__: f for f in (prepare, as_plain_functions, through_dagster)}[sys.argv[1]]()
    else:
        main()
