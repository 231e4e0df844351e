"""The local endpoint against MLflow's model server, and batch scoring against plain prediction.

Both servers serve the same booster, each as its own documentation has it started, and answer the same
row of 20 features in JSON. Clients keep their connections. One client gives the latency, sixteen give
the requests a second; clients and server share this machine.

Batch scoring reads rows from DuckDB, predicts, and writes predictions back as a table, from which the
next step reads them. What it stands beside only predicts, an array that is in memory already. The
warehouse's memory is limited to 950 MB, beyond which DuckDB uses the disk.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic import FEATURES, START, write_rows

_NAMES = [f"f{number:02}" for number in range(FEATURES)]
_ROUNDS, _DEPTH, _TRAINED_ON = 200, 6, 100_000
_CLIENTS = 16
_JOB = "bench-1"
_PERIOD = START


def train(folder: Path) -> Path:
    """A model of synthetic rows, as an unpacked artifact."""
    import duckdb
    import xgboost as xgb

    from sf_sagemaker.containers.xgboost.features import Feature, Target
    from sf_sagemaker.containers.xgboost.model import XGBoostModel
    from sf_sagemaker.containers.xgboost.model_card import ModelCard

    write_rows(folder / "training.duckdb", _TRAINED_ON)
    with duckdb.connect(str(folder / "training.duckdb")) as connection:
        table = connection.sql(f"select {', '.join(_NAMES)}, y from bench.rows").to_arrow_table()
    matrix = np.stack([column.to_numpy() for column in table.columns[:-1]], axis=1)
    booster = xgb.train(
        {"max_depth": _DEPTH, "objective": "reg:squarederror"},
        xgb.DMatrix(matrix, table["y"].to_numpy(), feature_names=_NAMES),
        _ROUNDS,
    )
    card = ModelCard(
        model="bench",
        partition=_PERIOD,
        dataset={},
        features=tuple(Feature(name, "numeric") for name in _NAMES),
        target=Target("y", "none", None, False),
        task="regression",
        hyperparameters={},
        rounds={"trained": _ROUNDS, "best": _ROUNDS},
        metrics={},
        learning_curve={},
        feature_importance={},
        library_versions={"xgboost": xgb.__version__},
        golden_rows=(),
        seed=0,
        instance_count=1,
    )
    model = folder / "artifacts" / _JOB
    XGBoostModel(booster, card).save(model)
    return model


@contextmanager
def our_server(folder: Path) -> Iterator[int]:
    """The port of a local endpoint."""
    from sf_sagemaker.serving.endpoint import EndpointOptions, ServedModel
    from sf_sagemaker.serving.local import LocalEndpointHost

    host = LocalEndpointHost(folder / "endpoints", _fetch(folder))
    model = ServedModel("bench", 1, _JOB, "", "xgboost")
    address = host.deploy("bench", model, EndpointOptions()).description.address
    assert address is not None
    try:
        yield int(address.split(":")[2].split("/")[0])
    finally:
        host.stop("bench")


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """The port of `mlflow models serve`, with the same booster."""
    import xgboost as xgb
    from mlflow.xgboost import save_model

    save_model(
        xgb.Booster(model_file=str(folder / "artifacts" / _JOB / "model.ubj")),
        str(folder / "mlflow"),
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("mlflow")), "models", "serve"),
                *("--model-uri", str(folder / "mlflow"), "--env-manager", "local"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "true",
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"MLflow didn't start:\n{(folder / 'mlflow.log').read_text()}")
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ask(port: int, body: bytes, requests: int) -> list[float]:
    """Seconds that each of some requests took on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    seconds = []
    for _ in range(requests):
        started = time.perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        seconds.append(time.perf_counter() - started)
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {content[:500]!r}")
    connection.close()
    return seconds


def load(port: int, body: bytes, requests: int) -> tuple[float, float, float]:
    """p50 and p99 of one client in milliseconds, and the requests a second of sixteen."""
    ask(port, body, min(requests, 200))  # warms up
    p50, p99 = np.percentile(ask(port, body, requests), [50, 99]) * 1000
    started = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as clients:
        each = [clients.submit(ask, port, body, requests // _CLIENTS) for _ in range(_CLIENTS)]
        done = sum(len(future.result()) for future in each)
    return float(p50), float(p99), done / (time.perf_counter() - started)


def endpoints(folder: Path, requests: int) -> None:
    row = dict.fromkeys(_NAMES, 0.25)
    bodies: Mapping[str, Mapping[str, Any]] = {
        "this project": {"instances": [row]},
        "MLflow": {"dataframe_split": {"columns": _NAMES, "data": [list(row.values())]}},
    }
    servers = {"this project": our_server, "MLflow": mlflow_server}
    found = {}
    print("| server | p50 ms | p99 ms | requests a second, 16 clients |\n|---|---|---|---|")
    for name, server in servers.items():
        with server(folder) as port:
            found[name] = load(port, json.dumps(bodies[name]).encode(), requests)
        p50, p99, rate = found[name]
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {rate:,.0f} |")
    ours, theirs = found.values()
    print(
        f"| ratio | {ours[0] / theirs[0]:.2f} | {ours[1] / theirs[1]:.2f} | {ours[2] / theirs[2]:.1f} |"
    )


def predict_array(folder: Path, rows: int) -> None:
    """Prints what predicting an array in memory takes, as JSON."""
    from sf_sagemaker.containers.xgboost.model import load_model

    model = load_model(folder / "artifacts" / _JOB)
    matrix = np.random.default_rng(1).random((rows, FEATURES), dtype=np.float32)
    matrix[::100, -1] = np.nan  # as in the rows: trees take longer over values that may be missing
    started = time.monotonic()
    predicted = model.predict_encoded(matrix)
    _print_cost(len(predicted), time.monotonic() - started)


def score_period(folder: Path, rows: int) -> None:
    """Prints what scoring a period takes, from rows in the warehouse to predictions in it, as JSON."""
    from datetime import UTC, datetime

    from sf_sagemaker.periods import Cadence
    from sf_sagemaker.serving.batch import LocalBatchScoring
    from sf_sagemaker.serving.predictions import predict_period
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse

    storage = LocalStorage(folder / "storage")
    spec = DatasetSpec(
        model="bench",
        source=Relation(schema_name="bench", name="rows"),
        row_key=("row_id",),
        split_key=("row_id",),
        event_time="day",
        target="y",
        window="1 month",
    )
    _crown(storage)
    started = time.monotonic()
    scored = predict_period(
        DuckDBWarehouse(folder / "warehouse.duckdb", memory_limit="950MB"),
        storage,
        LocalBatchScoring(_fetch(folder)),
        spec,
        Cadence("month", datetime(2023, 12, 1), datetime(2024, 2, 1)),
        _PERIOD,
        program="xgboost",
        predicted_at=datetime.now(UTC),
    )
    assert scored.rows == rows
    _print_cost(scored.rows, time.monotonic() - started)


def _crown(storage: Any) -> None:
    """Makes the model the champion of the period."""
    from sf_sagemaker.lifecycle.champions import Champion, promote
    from sf_sagemaker.lifecycle.registry import RegisteredModel, register_model

    register_model(
        storage,
        RegisteredModel(
            model="bench",
            partition="2023-12-01",
            training_job=_JOB,
            artifact_uri="",
            trained_at="2024-01-01T00:00:00+00:00",
            dataset="",
            dataset_fingerprint="",
            spec_digest="",
            target="y",
            target_kind="numeric",
            split="",
            features=tuple((name, "numeric") for name in _NAMES),
            warm_up=False,
        ),
    )
    promote(
        storage,
        Champion(
            version=1,
            model="bench",
            partition="2023-12-01",
            training_job=_JOB,
            in_force_from=_PERIOD,
            promoted_at="2024-01-01T00:00:00+00:00",
            kind="first",
            reason="it is the first",
            figures={},
        ),
    )


def _fetch(folder: Path) -> Any:
    def fetch(training_job: str, target: Path) -> Path:
        return Path(shutil.copytree(folder / "artifacts" / training_job, target / training_job))

    return fetch


def _print_cost(rows: int, seconds: float) -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")]
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_mb": peak}))


def batches(folder: Path, rows: int) -> None:
    write_rows(folder / "warehouse.duckdb", rows)
    print(f"\n| {rows:,} rows | rows a second | seconds | peak MB |\n|---|---|---|---|")
    rates = []
    for name, way in (("scoring a period", "score"), ("predicting an array", "predict")):
        output = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "benchmarks.serving"),
                *(way, str(folder), "--rows", str(rows)),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        cost = json.loads(output.splitlines()[-1])
        rates.append(cost["rows"] / cost["seconds"])
        print(f"| {name} | {rates[-1]:,.0f} | {cost['seconds']:.1f} | {cost['peak_mb']:,.0f} |")
    print(f"| ratio | {rates[0] / rates[1]:.2f} | | |")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", nargs="?", choices=["score", "predict"], help="internal")
    parser.add_argument("folder", nargs="?", type=Path, help="internal")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--requests", type=int, default=4_000)
    given = parser.parse_args()
    if given.way == "score":
        score_period(given.folder, given.rows)
    elif given.way == "predict":
        predict_array(given.folder, given.rows)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            train(Path(scratch))
            endpoints(Path(scratch), given.requests)
            batches(Path(scratch), given.rows)


if __name__ == "__main__":
    main()
