"""A training container's /opt/ml under a temporary folder, and datasets to put there."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sf_sagemaker.warehouse.dataset import (
    SPLITS,
    Column,
    DatasetSpec,
    Dropped,
    Fingerprint,
    Manifest,
    ManifestWindow,
    Relation,
    ShardFile,
    Split,
    Target,
    TargetKind,
    WindowPeriod,
)
from waiting import wait_until

Tables = Mapping[Split, Sequence[pa.Table]]


@dataclass
class Finished:
    """What a script left: exit status, output, failure file and the model's folder."""

    status: int
    output: str
    failure: str | None
    model: Path

    @property
    def card(self) -> dict[str, Any]:
        return json.loads((self.model / "model-card.json").read_text())


@dataclass
class Running:
    """A script that runs as one host."""

    process: subprocess.Popen[bytes]
    root: Path
    log: Path

    def wait(self, timeout: float = 120) -> Finished:
        status = self.process.wait(timeout)
        failure = self.root / "output" / "failure"
        return Finished(
            status=status,
            output=self.log.read_text(),
            failure=failure.read_text() if failure.exists() else None,
            model=self.root / "model",
        )

    def wait_for_line(self, text: str, timeout: float = 60) -> None:
        def written() -> bool:
            if text in self.log.read_text():
                return True
            assert self.process.poll() is None, self.log.read_text()
            return False

        wait_until(written, timeout, told=self.log.read_text)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Container:
    """Hosts of one job. `start` runs the entry script of the code folder on one of them."""

    folder: Path
    code: Path
    hosts: list[str] = field(default_factory=lambda: ["algo-1"])
    port: int = 9099
    entry_point: str = "train_xgboost.py"
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def root(self, host: str = "algo-1") -> Path:
        return self.folder / host / "ml"

    def data(self, channel: str, host: str = "algo-1") -> Path:
        return self.root(host) / "input" / "data" / channel

    def write(
        self,
        tables: Tables,
        *,
        target: str,
        kind: TargetKind = "numeric",
        classes: Sequence[str] | None = None,
    ) -> Manifest:
        """Puts a dataset into the channels: train table i to host i, the rest to all of them."""
        manifest = manifest_of(tables, target=target, kind=kind, classes=classes)
        for number, host in enumerate(self.hosts):
            for split in SPLITS:
                shards = list(enumerate(tables[split]))
                for shard, table in shards[number : number + 1] if split == "train" else shards:
                    path = self.data(split, host) / f"shard={shard:03d}" / "part-0.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(table, path, row_group_size=500)
                self.data(split, host).mkdir(parents=True, exist_ok=True)
            path = self.data("manifest", host) / "manifest.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(manifest.model_dump_json())
        return manifest

    def start(self, host: str = "algo-1", **hyperparameters: object) -> Running:
        root = self.root(host)
        strings = {name.rstrip("_"): str(value) for name, value in hyperparameters.items()}
        environment = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "SM_MODEL_DIR": str(root / "model"),
            "SM_OUTPUT_DATA_DIR": str(root / "output" / "data"),
            "SM_HPS": json.dumps(strings),
            "SM_HOSTS": json.dumps(self.hosts),
            "SM_CURRENT_HOST": host,
            "SM_NUM_CPUS": "1",
            "SF_SAGEMAKER_TRACKER_URI": "127.0.0.1",
            "SF_SAGEMAKER_TRACKER_PORT": str(self.port),
            "SF_SAGEMAKER_PEER_TIMEOUT": "60",
            **{
                f"SM_CHANNEL_{channel.upper()}": str(self.data(channel, host))
                for channel in (*SPLITS, "manifest")
            },
            **self.environment,
        }
        root.mkdir(parents=True, exist_ok=True)
        (root / "model").mkdir(exist_ok=True)
        log = self.folder / f"{host}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, self.entry_point],
                cwd=self.code,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return Running(process, root, log)

    def run(self, host: str = "algo-1", **hyperparameters: object) -> Finished:
        return self.start(host, **hyperparameters).wait()

    def start_all(self, **hyperparameters: object) -> dict[str, Running]:
        """All hosts at once, which meet at a port of their own."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        return {host: self.start(host, **hyperparameters) for host in self.hosts}

    def run_all(self, **hyperparameters: object) -> dict[str, Finished]:
        running = self.start_all(**hyperparameters)
        return {host: each.wait(timeout=90) for host, each in running.items()}


def manifest_of(
    tables: Tables, *, target: str, kind: TargetKind, classes: Sequence[str] | None
) -> Manifest:
    """A manifest as the warehouse would write it: every column but the target is a feature."""
    everything = pa.concat_tables([table for split in SPLITS for table in tables[split]])
    train = pa.concat_tables(tables["train"])
    fingerprint = Fingerprint(algorithm="test", value=str(everything.num_rows))
    columns = []
    for name in everything.column_names:
        text = pa.types.is_string(everything.schema.field(name).type)
        levels = train[name].unique().drop_null().to_pylist() if text and name != target else None
        columns.append(
            Column(
                name=name,
                source_name=name,
                source_type="?",
                type="?",
                kind="categorical" if text else "numeric",
                roles=("target",) if name == target else ("feature",),
                levels=tuple(sorted(levels)) if levels is not None else None,
            )
        )
    return Manifest(
        spec=DatasetSpec(
            model="houses",
            source=Relation(name="sales"),
            row_key=("id",),
            split_key=("id",),
            event_time="day",
            target=target,
            target_kind=kind,
            window="4 weeks",
        ),
        spec_digest="0123456789ab",
        partition="2024-01-01",
        attempt="1",
        created_at="2024-01-08T00:00:00Z",
        window=ManifestWindow(
            start="2023-12-11",
            end="2024-01-08",
            full=True,
            periods=(
                WindowPeriod(
                    partition="2024-01-01",
                    start="2024-01-01",
                    end="2024-01-08",
                    rows=everything.num_rows,
                    fingerprint=fingerprint,
                ),
            ),
        ),
        columns=tuple(columns),
        target=Target(name=target, kind=kind, classes=tuple(classes) if classes else None),
        files=tuple(
            ShardFile(
                split=split,
                shard=shard,
                path=f"{split}/shard={shard:03d}/part-0.parquet",
                rows=table.num_rows,
                bytes=1,
            )
            for split in SPLITS
            for shard, table in enumerate(tables[split])
            if table.num_rows
        ),
        dropped=Dropped(missing_target=3),
        fingerprint=fingerprint,
        sql="select 1",
        export_seconds=0.1,
    )


def one_shard(tables: Tables) -> Tables:
    """The same rows with one shard a split."""
    return {split: [pa.concat_tables(parts)] for split, parts in tables.items()}


def with_target(
    tables: Tables, drop: str, name: str, value: Callable[[Split, Any], object]
) -> Tables:
    """One shard a split, with a column made into a target: `value` of its split and old value."""
    made: dict[Split, list[pa.Table]] = {}
    for split, (table,) in one_shard(tables).items():
        values = pa.array([value(split, old) for old in table[drop].to_pylist()])
        made[split] = [table.drop_columns([drop]).append_column(name, values)]
    return made
