"""Exporting a training dataset: rows stay in the warehouse until they are files, and a manifest,
written last, makes the files a dataset.

The sampled rows are first staged in a temporary table of the same session: statistics, checks,
fingerprint and files then come from one set of rows, and their hashes are computed once.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from sf_sagemaker.periods import Cadence, Window, parse_length, trailing_window
from sf_sagemaker.storage import KeyExists, KeyMissing, Storage
from sf_sagemaker.warehouse.catalog import pinned
from sf_sagemaker.warehouse.dataset import (
    SPLITS,
    Column,
    DatasetSpec,
    Fingerprint,
    Manifest,
    ManifestWindow,
    ShardFile,
    Split,
    WindowPeriod,
)
from sf_sagemaker.warehouse.errors import (
    ColumnTypeChanged,
    CorruptDataset,
    ExportFailed,
    IncomparableFingerprints,
    WarehouseError,
)
from sf_sagemaker.warehouse.manifests import (
    MANIFEST,
    latest_manifest,
    manifest_bytes,
    open_parquet,
    partition_folder,
    partitions,
    read_split,
    verify_files,
)
from sf_sagemaker.warehouse.selection import RowSums, Selection, select_rows, sums_by_period
from sf_sagemaker.warehouse.validation import (
    as_text,
    check_splits,
    check_window,
    describe_target,
    with_levels,
)
from sf_sagemaker.warehouse.warehouse import SPLIT, Dialect, Session, Warehouse, quote

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ChangedPeriod",
    "Export",
    "InvalidAttempt",
    "changed_periods",
    "export_dataset",
    "latest_manifest",
    "read_rows",
    "read_split",
    "verify_files",
]

_STAGED = '"__rows"'
_STARTED = "started.json"
_ABANDONED_AFTER = timedelta(days=1)
_ATTEMPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class InvalidAttempt(WarehouseError):
    """An attempt's name that can't be a folder."""


@dataclass(frozen=True)
class Export:
    """A committed dataset: its manifest, and the key of the folder that holds both.

    `reused` says that it was there already, with the very rows that the warehouse holds now.
    """

    manifest: Manifest
    key: str
    reused: bool


@dataclass(frozen=True)
class ChangedPeriod:
    """A period of a dataset's window whose rows in the warehouse are others than were exported."""

    partition: str
    recorded_rows: int
    present_rows: int


def export_dataset(
    warehouse: Warehouse,
    storage: Storage,
    spec: DatasetSpec,
    cadence: Cadence,
    partition: str,
    *,
    attempt: str,
    accept_type_changes: bool = False,
) -> Export:
    """The dataset of a partition, exported by the warehouse unless it is there with the same rows.

    It holds the rows whose event lies in the trailing window that ends with the partition's period
    and whose label was known by then. Rows without an event time belong to no period. `attempt`
    names the folder (a run's id); a name that is taken gets a number behind it. Whatever fails,
    this attempt leaves nothing and earlier ones are untouched; attempts that never committed are
    removed after a day.

    Raises InvalidPeriod and InvalidAttempt for the arguments; what `select_rows`, `check_window`,
    `check_splits`, `describe_target` and `with_levels` raise for the data; ColumnTypeChanged
    against the newest dataset of this partition or else of the nearest other, unless
    `accept_type_changes`; ExportFailed; and what sessions of the warehouse raise.
    """
    started = time.monotonic()
    if not _ATTEMPT.fullmatch(attempt):
        raise InvalidAttempt(
            f"attempt {attempt!r} names a folder: use at most 100 letters, digits, dots, hyphens "
            "and underscores"
        )
    period = cadence.period(partition)
    window = trailing_window(cadence, period, parse_length(spec.window))
    _remove_abandoned(storage, spec, partition)
    with warehouse.reading() as session, session.snapshot():
        selection = select_rows(session, spec, cadence.timezone)
        selection = replace(selection, table=pinned(session, selection.table))
        if not accept_type_changes:
            _check_types(storage, selection, partition)
        counts = check_window(session, selection, window, period)
        sql = selection.rows(_usable(selection, window), sampled=True)
        session.execute(f"create temporary table {_STAGED} as {sql}")
        shards = check_splits(session, _STAGED, counts)
        target = describe_target(session, selection, _STAGED)
        columns = with_levels(session, selection, _STAGED)
        sums = _sums_by_period(session, selection, _STAGED, cadence)
        fingerprint = _fingerprint(selection, sums)

        existing = latest_manifest(storage, spec, partition)
        if existing and existing[0].fingerprint == fingerprint and _is_whole(storage, *existing):
            return Export(*existing, reused=True)

        key = _claim(storage, partition_folder(spec, partition), attempt)
        committed = False
        try:
            query_id = session.export(
                _STAGED, [column.name for column in columns], storage, key, spec.shards
            )
            files = _written_files(storage, key, shards, spec.shards)
            manifest = Manifest(
                spec=spec,
                spec_digest=spec.digest,
                partition=partition,
                attempt=key.rsplit("/", 1)[-1],
                created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                window=_manifest_window(window, sums, session.dialect),
                columns=columns,
                target=target,
                files=files,
                dropped=counts.dropped(sampled=sum(shards.values())),
                fingerprint=fingerprint,
                sql=sql,
                query_id=query_id,
                source_version=selection.table.version.moment if selection.table.version else None,
                export_seconds=round(time.monotonic() - started, 3),
            )
            _commit(storage, key, manifest)
            committed = True
        finally:
            if not committed:
                storage.delete(key)
    storage.delete(f"{key}/{_STARTED}")
    return Export(manifest, key, reused=False)


def changed_periods(
    warehouse: Warehouse, manifest: Manifest, cadence: Cadence
) -> list[ChangedPeriod]:
    """The periods of a dataset's window whose rows are others in the warehouse now, in order.

    A period that has gained, lost or changed rows counts, whatever became of the others.

    Raises IncomparableFingerprints when another version of the warehouse made the manifest, and
    what `select_rows` raises when the columns it needs are gone.
    """
    features = [column.name for column in manifest.features]
    start = datetime.fromisoformat(manifest.window.start)
    end = datetime.fromisoformat(manifest.window.end)
    with warehouse.reading() as session, session.snapshot():
        selection = select_rows(session, manifest.spec, cadence.timezone, features)
        algorithm = session.dialect.fingerprint_algorithm
        if manifest.fingerprint.algorithm != algorithm:
            raise IncomparableFingerprints(
                f"the dataset of {manifest.partition} was fingerprinted by "
                f"{manifest.fingerprint.algorithm}, this warehouse does it by {algorithm}: "
                "materialize the dataset again to compare it from then on"
            )
        condition = f"{selection.in_interval(start, end)} and {_usable_by(selection, end)}"
        rows = f"({selection.rows(condition, sampled=True)}) as present"
        sums = _sums_by_period(session, selection, rows, cadence)
    changed = []
    for period in manifest.window.periods:
        present = sums.get(period.partition, RowSums())
        if present.fingerprint(algorithm) != period.fingerprint:
            changed.append(ChangedPeriod(period.partition, period.rows, present.rows))
    return changed


def read_rows(
    warehouse: Warehouse,
    spec: DatasetSpec,
    start: datetime,
    end: datetime,
    *,
    known_by: datetime | None = None,
    labelled: bool = True,
    timezone: str = "UTC",
) -> pyarrow.Table:
    """The rows of events in [start, end), all of them, as a dataset would hold them.

    Same columns, names and casts as a dataset of `spec`, and `split`, where each row falls; no
    rows is an empty table. `known_by` leaves out labels that weren't known by then; `labelled` False
    takes rows whose label is missing, too. Bounds are naive, in `timezone`.

    Raises what `select_rows` raises, and what sessions of the warehouse raise.
    """
    with warehouse.reading() as session:
        selection = select_rows(session, spec, timezone)
        conditions = [selection.in_interval(start, end)]
        if labelled:
            conditions.append(selection.labelled())
        if known_by is not None:
            conditions.append(selection.known_by(known_by))
        rows = selection.rows(" and ".join(conditions), sampled=False)
        names = ", ".join(quote(column.name) for column in selection.columns)
        keys = ", ".join(quote(name.lower()) for name in spec.row_key)
        return session.arrow(
            f'select {names}, {quote(SPLIT)} as "split" from ({rows}) as present order by {keys}'
        )


def _usable(selection: Selection, window: Window) -> str:
    return (
        f"{selection.in_interval(window.start, window.end)} and {_usable_by(selection, window.end)}"
    )


def _usable_by(selection: Selection, moment: datetime) -> str:
    return f"{selection.known_by(moment)} and {selection.labelled()}"


def _sums_by_period(
    session: Session, selection: Selection, rows: str, cadence: Cadence
) -> dict[str, RowSums]:
    return sums_by_period(session.rows(selection.sums_by_day(rows)), cadence)


def _fingerprint(selection: Selection, sums: dict[str, RowSums]) -> Fingerprint:
    """Covers the rows, what their columns are called, and how rows fall into splits."""
    total = sum(sums.values(), RowSums())
    algorithm = selection.dialect.fingerprint_algorithm
    spec = selection.spec
    covered = {
        "rows": total.fingerprint(algorithm).value,
        "columns": [(column.name, column.type, column.kind) for column in selection.columns],
        "split_key": [name.lower() for name in spec.split_key],
        "salt": spec.salt,
        "splits": spec.splits.model_dump(),
    }
    value = hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()[:32]
    return Fingerprint(algorithm=algorithm, value=value)


def _manifest_window(window: Window, sums: dict[str, RowSums], dialect: Dialect) -> ManifestWindow:
    periods = []
    for period in window.periods:
        its = sums.get(period.key, RowSums())
        periods.append(
            WindowPeriod(
                partition=period.key,
                start=as_text(period.start),
                end=as_text(period.end),
                rows=its.rows,
                fingerprint=its.fingerprint(dialect.fingerprint_algorithm),
            )
        )
    return ManifestWindow(
        start=as_text(window.start),
        end=as_text(window.end),
        full=window.full,
        periods=tuple(periods),
    )


def _check_types(storage: Storage, selection: Selection, partition: str) -> None:
    """Compares the columns with those of the last dataset, by kind and by family of source type."""
    previous = latest_manifest(storage, selection.spec, partition)
    if previous is None:
        others = partitions(storage, selection.spec)
        # The nearest earlier one, or where this is the first, the nearest later one.
        nearest = max((key for key in others if key < partition), default=None)
        nearest = nearest or min((key for key in others if key > partition), default=None)
        previous = latest_manifest(storage, selection.spec, nearest) if nearest else None
    if previous is None:
        return
    manifest, _ = previous
    before = {column.name: column for column in manifest.columns}
    changes = [
        f"{column.name} was {before[column.name].source_type} in {manifest.partition} and is "
        f"{column.source_type} in {partition}"
        for column in selection.columns
        if column.name in before
        and _comparable(selection, column) != _comparable(selection, before[column.name])
    ]
    if changes:
        raise ColumnTypeChanged(
            f"column types of {selection.table} changed since the last dataset: "
            f"{'; '.join(changes)}. Restore the type in dbt, or accept the change for this run"
        )


def _comparable(selection: Selection, column: Column) -> tuple[str, str]:
    family = selection.dialect.family(column.source_type)
    # Sums and averages move between number types without meaning anything else.
    return column.kind, "number" if family in ("integer", "decimal", "float") else family


def _is_whole(storage: Storage, manifest: Manifest, key: str) -> bool:
    try:
        verify_files(storage, manifest, key)
    except CorruptDataset:
        return False
    return True


def _claim(storage: Storage, folder: str, attempt: str) -> str:
    """A folder for this attempt alone, marked with the time: two runs never write into one."""
    marker = json.dumps({"started_at": datetime.now(UTC).isoformat()}).encode()
    number = 1
    while True:
        key = f"{folder}/{attempt}" if number == 1 else f"{folder}/{attempt}-{number}"
        number += 1
        if any(storage.list(key)):
            continue
        try:
            storage.create(f"{key}/{_STARTED}", marker)
        except KeyExists:
            continue
        except OSError as error:
            raise ExportFailed(f"{storage.uri(key)} can't be written: {error}") from error
        return key


def _remove_abandoned(storage: Storage, spec: DatasetSpec, partition: str) -> None:
    """Removes attempts that began long ago and never committed: their process died."""
    keys = list(storage.list(partition_folder(spec, partition)))
    committed = {key.rsplit("/", 1)[0] for key in keys if key.endswith(f"/{MANIFEST}")}
    for key in keys:
        folder, _, name = key.rpartition("/")
        if name != _STARTED or folder in committed:
            continue
        try:
            began = datetime.fromisoformat(json.loads(storage.read(key))["started_at"])
        except KeyMissing:
            continue  # it committed or gave up while this was looking
        if datetime.now(UTC) - began > _ABANDONED_AFTER:
            storage.delete(folder)


def _written_files(
    storage: Storage, key: str, expected: dict[tuple[Split, int], int], shards: int
) -> tuple[ShardFile, ...]:
    """The files of an export, by split and shard, with the rows their footers tell.

    Raises ExportFailed unless each split and shard has exactly the rows that were counted.
    """
    pattern = re.compile(rf"({'|'.join(SPLITS)})/shard=(\d+)/[^/]+\.parquet")
    files = []
    for path in storage.list(key):
        match = pattern.fullmatch(path.removeprefix(f"{key}/"))
        if match is None:
            continue
        try:
            with open_parquet(storage, path) as parquet:
                rows = parquet.metadata.num_rows
        except CorruptDataset as error:
            raise ExportFailed(f"an exported file is unreadable at once: {error}") from error
        files.append(
            ShardFile(
                split=cast(Split, match[1]),
                shard=int(match[2]),
                path=match[0],
                rows=rows,
                bytes=storage.size(path),
            )
        )
    written: dict[tuple[Split, int], int] = {}
    for file in files:
        place = (file.split, file.shard)
        written[place] = written.get(place, 0) + file.rows
    wanted: dict[tuple[Split, int], int] = {
        (split, shard): expected.get((split, shard), 0)
        for split in SPLITS
        for shard in range(shards)
    }
    if written != wanted:
        wrong = {
            place: (rows, written.get(place)) for place, rows in wanted.items()
            if written.get(place) != rows
        }  # fmt: skip
        shown = ", ".join(
            f"{split} shard {shard}: counted {rows:,}, written {found}"
            for (split, shard), (rows, found) in list(wrong.items())[:5]
        )
        raise ExportFailed(f"the files don't hold the rows that were counted: {shown}. Run again")
    return tuple(sorted(files, key=lambda file: (SPLITS.index(file.split), file.shard, file.path)))


def _commit(storage: Storage, key: str, manifest: Manifest) -> None:
    try:
        storage.create(f"{key}/{MANIFEST}", manifest_bytes(manifest))
    except OSError as error:
        raise ExportFailed(
            f"the manifest of {storage.uri(key)} can't be written: {error}. If the disk is full, "
            "make room and run again"
        ) from error
