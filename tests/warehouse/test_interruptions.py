"""Exports that are killed, run out of disk, meet a locked file, or meet each other."""

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.errors import ExportFailed, WarehouseLocked
from sf_sagemaker.warehouse.export import export_dataset, latest_manifest, verify_files
from sf_sagemaker.warehouse.manifests import read_manifest

LAST = "2024-01-15"

# Exports LAST with the specification, warehouse, storage and attempt of the command line.
EXPORT = """
import sys
from datetime import datetime
from pathlib import Path
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.export import export_dataset

spec, path, root, attempt = sys.argv[1:]
cadence = Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 22))
try:
    export = export_dataset(
        DuckDBWarehouse(path), LocalStorage(Path(root)), DatasetSpec.model_validate_json(spec),
        cadence, "2024-01-15", attempt=attempt,
    )
except SfSagemakerError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(export.key, export.manifest.fingerprint.value)
"""

# Holds a DuckDB file until it is told to let go.
HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
connection.close()
"""


@pytest.fixture
def spec(make_spec: Any) -> DatasetSpec:
    return make_spec(shards=100)


def snapshot(storage: LocalStorage) -> dict[str, bytes]:
    return {key: storage.read(key) for key in storage.list("datasets")}


def test_a_kill_during_export_commits_nothing_and_the_next_run_starts_clean(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    spec: DatasetSpec,
    start_python: Callable[..., Any],
) -> None:
    first = export_dataset(sales, storage, spec, cadence, LAST, attempt="first")
    before = snapshot(storage)
    run_sql("insert into sales select sale_id + 1000, * exclude (sale_id) from sales")
    folder = storage.path(first.key).parent / "killed"
    export = start_python(EXPORT, spec.model_dump_json(), sales.path, storage.root, "killed")
    while not list(folder.rglob("*.parquet")):
        assert export.poll() is None, export.stderr.read()
        time.sleep(0.001)
    export.send_signal(signal.SIGKILL)
    export.wait()
    assert 0 < len(list(folder.rglob("*.parquet"))) < 300
    assert not (folder / "manifest.json").exists()
    assert latest_manifest(storage, spec, LAST) == (first.manifest, first.key)
    assert before.items() <= snapshot(storage).items()

    following = export_dataset(sales, storage, spec, cadence, LAST, attempt="killed")
    assert (following.manifest.rows(), following.key.rsplit("/", 1)[1]) == (1200, "killed-2")
    verify_files(storage, following.manifest, following.key)


def test_attempts_that_never_committed_are_removed_after_a_day(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, spec: DatasetSpec
) -> None:
    folder = f"datasets/{spec.model}/{LAST}/{spec.digest}"
    for attempt, hours in (("old", 25), ("young", 23), ("committed", 50)):
        began = datetime.now(UTC) - timedelta(hours=hours)
        marker = json.dumps({"started_at": began.isoformat()})
        storage.create(f"{folder}/{attempt}/started.json", marker.encode())
        storage.create(f"{folder}/{attempt}/train/shard=000/part-0.parquet", b"half")
    elsewhere = LocalStorage(storage.root / "elsewhere")
    committed = export_dataset(sales, elsewhere, spec, cadence, LAST, attempt="a")
    manifest = committed.manifest.model_dump_json().encode()
    storage.create(f"{folder}/committed/manifest.json", manifest)
    export_dataset(sales, storage, spec, cadence, LAST, attempt="new")
    left = {path.name for path in storage.path(folder).iterdir()}
    assert left == {"young", "committed", "new"}


def test_a_full_disk_commits_nothing(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
    start_python: Callable[..., Any],
) -> None:
    spec = make_spec()
    first = export_dataset(sales, storage, spec, cadence, LAST, attempt="first")
    before = snapshot(storage)
    run_sql(
        "insert into sales select 1000 + i, i % 90000, date '2024-01-16', i, random(), true, "
        "'north' from range(300000) r(i)"
    )
    # No file may grow beyond 200 kB: writing fails with EFBIG as it does with ENOSPC when full.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    export = start_python(limit + EXPORT, spec.model_dump_json(), sales.path, storage.root, "full")
    _, errors = export.communicate(timeout=60)
    assert export.returncode == 1
    assert errors.startswith("ExportFailed")
    assert "disk is full" in errors
    assert snapshot(storage) == before
    assert not storage.path(first.key).with_name("full").exists()
    assert not export_dataset(sales, storage, spec, cadence, LAST, attempt="full").reused


def test_a_folder_that_cannot_be_written_is_a_clear_error(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> None:
    storage.create("datasets/house_prices", b"a file where a folder should be")
    with pytest.raises(ExportFailed, match="house_prices"):
        export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="a")


def test_a_locked_file_is_waited_for(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    cadence: Cadence,
    make_spec: Any,
    start_python: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    holder = start_python(HOLD, sales.path)
    assert holder.stdout.readline() == "held\n"
    release = threading.Timer(1, holder.communicate)
    release.start()
    with caplog.at_level(logging.INFO):
        export = export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="a")
    assert export.manifest.rows() == 600
    assert re.search(rf"waiting for .*warehouse\.duckdb.*process {holder.pid}", caplog.text)


@pytest.mark.parametrize("work", ["reading", "writing"])
def test_a_file_that_stays_locked_names_its_holder(
    sales: DuckDBWarehouse, start_python: Callable[..., Any], work: str
) -> None:
    holder = start_python(HOLD, sales.path)
    assert holder.stdout.readline() == "held\n"
    impatient = DuckDBWarehouse(sales.path, lock_timeout=0.4)
    started = time.monotonic()
    with pytest.raises(WarehouseLocked, match=f"process {holder.pid} .*python"):
        getattr(impatient, work)().__enter__()
    assert 0.4 <= time.monotonic() - started < 5


def test_a_writer_waits_for_a_reader_of_its_own_process(sales: DuckDBWarehouse) -> None:
    impatient = DuckDBWarehouse(sales.path, lock_timeout=0.2)
    with (
        sales.reading(),
        pytest.raises(WarehouseLocked, match="this process itself"),
        impatient.writing(),
    ):
        pass


def test_readers_work_side_by_side(sales: DuckDBWarehouse) -> None:
    with sales.reading() as one, sales.reading() as other:
        query = "select count(*) from sales"
        assert one.rows(query) == other.rows(query) == [(600,)]


def test_two_exports_of_a_partition_at_once_both_end_well(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    spec: DatasetSpec,
    start_python: Callable[..., Any],
) -> None:
    # The same name too, as when a run is retried while its first process still works.
    runs = [
        start_python(EXPORT, spec.model_dump_json(), sales.path, storage.root, attempt)
        for attempt in ("one", "other", "one")
    ]
    outputs = []
    for run in runs:
        output, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        outputs.append(output.split())
    assert len({fingerprint for _, fingerprint in outputs}) == 1
    latest = latest_manifest(storage, spec, LAST)
    assert latest is not None
    assert latest[1] in {key for key, _ in outputs}
    for key in {key for key, _ in outputs}:
        assert Path(storage.path(key) / "manifest.json").exists()
        verify_files(storage, read_manifest(storage, key), key)
