"""Export and training of many rows: this project against the notebook way. Seconds and peak memory.

The notebook way is what most start from: `select *` into pandas, dropna, DMatrix, train. Both train
30 rounds of depth 6 on the same table on every core. Ours also validates, splits, writes a manifest,
evaluates on held-out rows and leaves a model card; of the largest process, memory counts.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from measure import Cost, measured
from synthetic import DAYS, START, write_rows

_ROUNDS, _DEPTH = 30, 6


def ours(folder: Path) -> None:
    from datetime import datetime, timedelta

    from sf_sagemaker.containers import program_files
    from sf_sagemaker.periods import Cadence
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.job import Channel, Program, TrainingJob
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.run import run_training_job
    from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
    from sf_sagemaker.warehouse.export import export_dataset

    hosts = int(os.environ.get("BENCH_HOSTS", "1"))
    warehouse = DuckDBWarehouse(folder / "warehouse.duckdb", memory_limit="1GB")
    storage = LocalStorage(folder / f"storage-{hosts}")
    start = datetime.fromisoformat(START)
    cadence = Cadence("week", start, start + timedelta(days=DAYS))
    spec = DatasetSpec(
        model="bench",
        source=Relation(schema_name="bench", name="rows"),
        row_key=("row_id",),
        split_key=("row_id",),
        event_time="day",
        target="y",
        window="4 weeks",
        shards=hosts,
    )
    export = export_dataset(warehouse, storage, spec, cadence, "2024-01-22", attempt="a")
    platform = LocalTrainingPlatform(storage)
    job = TrainingJob(
        model="bench",
        partition="2024-01-22",
        program=Program(*program_files("xgboost")),
        image=platform.image("xgboost"),
        dataset_fingerprint=export.manifest.fingerprint.value,
        channels=(
            Channel("train", f"{export.key}/train", "sharded"),
            Channel("validation", f"{export.key}/validation"),
            Channel("test", f"{export.key}/test"),
            Channel("manifest", f"{export.key}/manifest.json"),
        ),
        hyperparameters={
            "objective": "reg:squarederror",
            "num_round": str(_ROUNDS),
            "max_depth": str(_DEPTH),
        },
        seed=0,
        instance_count=hosts,
    )
    run_training_job(job, platform)


def notebook(folder: Path) -> None:
    import duckdb
    import xgboost as xgb

    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        frame = connection.execute("select * from bench.rows").df().dropna()
    rows = xgb.DMatrix(frame.drop(columns=["row_id", "day", "y"]), label=frame["y"])
    xgb.train({"max_depth": _DEPTH, "tree_method": "hist"}, rows, num_boost_round=_ROUNDS)


def main() -> None:
    """Prints a line for each size and way, and the ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    print("| rows | way | seconds | CPU s | peak MB |\n|---|---|---|---|---|")
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_rows(folder / "warehouse.duckdb", rows)
            costs: dict[str, Cost] = {}
            for way in ("notebook", "ours"):
                costs[way] = measured([__file__, way, name])
                cost = costs[way]
                print(
                    f"| {rows:,} | {way} | {cost.wall_seconds:.1f} | {cost.cpu_seconds:.1f} "
                    f"| {cost.peak_mb:,.0f} |",
                    flush=True,
                )
            base, own = costs["notebook"], costs["ours"]
            print(
                f"| {rows:,} | ratio | {own.wall_seconds / base.wall_seconds:.2f} "
                f"| {own.cpu_seconds / base.cpu_seconds:.2f} | {own.peak_mb / base.peak_mb:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("ours", "notebook"):
        {"ours": ours, "notebook": notebook}[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
