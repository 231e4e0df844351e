"""Export and training of many rows: this project against the notebook way. Seconds and peak memory.

The notebook way is what most start from: `select *` into pandas, dropna, DMatrix, train. Both train
30 rounds of depth 6 on the same table on every core. They don't do the same work: the notebook
trains on the 99 % of rows without a missing value and does nothing else. Ours keeps missing values,
splits rows into 80 % to train on, 10 % to validate every round and 10 % to test, checks keys,
target and fingerprint, and leaves files, a manifest and a model card. Of the largest process, memory
counts; the warehouse's is limited to 950 MB, beyond which DuckDB uses the disk.

Several hosts are processes that share this machine's cores: they show that the model is as good,
not that it is made faster.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, measured
from benchmarks.synthetic import DAYS, START, write_rows

_ROUNDS, _DEPTH = 30, 6
_PLOT = Path(__file__).resolve().parents[1] / "docs" / "images" / "large.png"


def ours(folder: Path, hosts: int) -> None:
    from datetime import datetime, timedelta

    from sf_sagemaker.containers import program_files
    from sf_sagemaker.periods import Cadence
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.run import TRAINING, run_job
    from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
    from sf_sagemaker.warehouse.export import export_dataset

    warehouse = DuckDBWarehouse(folder / "warehouse.duckdb", memory_limit="950MB")
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
        channels=dataset_channels(export.key),
        hyperparameters={
            "objective": "reg:squarederror",
            "num_round": str(_ROUNDS),
            "max_depth": str(_DEPTH),
        },
        seed=0,
        instance_count=hosts,
    )
    result = run_job(job, platform, TRAINING)
    platform.fetch_artifact(result.name, folder / f"model-{hosts}")


def notebook(folder: Path) -> None:
    import duckdb
    import xgboost as xgb

    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        frame = connection.execute("select * from bench.rows").df().dropna()
    rows = xgb.DMatrix(frame.drop(columns=["row_id", "day", "y"]), label=frame["y"])
    xgb.train({"max_depth": _DEPTH, "tree_method": "hist"}, rows, num_boost_round=_ROUNDS)


def compare(rows: int, hosts: list[int]) -> dict[str, Cost]:
    """The costs of the notebook way and of ours on so many hosts, printed as they come."""
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "warehouse.duckdb", rows)
        costs["notebook"] = measured(["-m", "benchmarks.large", "notebook", name])
        _print_cost(rows, "notebook", costs["notebook"], "")
        for count in hosts:
            way = f"ours, {count} host{'s' if count > 1 else ''}"
            costs[way] = measured(["-m", "benchmarks.large", "ours", name, str(count)])
            card = next((folder / f"model-{count}").glob("*/model-card.json"))
            error = json.loads(card.read_text())["metrics"]["test"]["root_mean_squared_error"]
            _print_cost(rows, way, costs[way], f"{error:.4f}")
            base, own = costs["notebook"], costs[way]
            print(
                f"| {rows:,} | ratio | {own.wall_seconds / base.wall_seconds:.2f} "
                f"| {own.cpu_seconds / base.cpu_seconds:.2f} | {own.peak_mb / base.peak_mb:.2f} "
                "| |",
                flush=True,
            )
    return costs


def plot(growth: dict[int, dict[str, Cost]], path: Path) -> None:
    """Time and memory of every way against the number of rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2)
    sizes = sorted(growth)
    millions = [rows / 1e6 for rows in sizes]
    for way in growth[sizes[0]]:
        costs = [growth[rows][way] for rows in sizes]
        time.plot(millions, [cost.wall_seconds for cost in costs], "o-", label=way)
        memory.plot(millions, [cost.peak_mb / 1000 for cost in costs], "o-", label=way)
    time.set_title("Export and training, seconds")
    memory.set_title("Largest process, GB")
    for axes in (time, memory):
        axes.set_xlabel("rows of 20 features, millions")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prints a line for each size and way, and the ratios to the notebook way."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1], help="as in: --hosts 1 2")
    parser.add_argument(
        "--plot", type=Path, nargs="?", const=_PLOT, help=f"also draw it; default {_PLOT}"
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, shared by all hosts; load before the start {load:.1f}\n")
    print("| rows | way | seconds | CPU s | peak MB | test RMSE |\n|---|---|---|---|---|---|")
    growth = {rows: compare(rows, arguments.hosts) for rows in arguments.rows}
    if arguments.plot:
        plot(growth, arguments.plot)


def _print_cost(rows: int, way: str, cost: Cost, error: str) -> None:
    print(
        f"| {rows:,} | {way} | {cost.wall_seconds:.1f} | {cost.cpu_seconds:.1f} "
        f"| {cost.peak_mb:,.0f} | {error} |",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        ours(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["notebook"]:
        notebook(Path(sys.argv[2]))
    else:
        main()
