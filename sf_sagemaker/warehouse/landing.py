"""Landing raw rows: a period's rows of a Parquet file replace that period in a raw table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from sf_sagemaker.periods import Period
from sf_sagemaker.warehouse.catalog import Table, find_columns, find_relation
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.errors import ColumnTypeChanged, EmptyPartition, UnsupportedType
from sf_sagemaker.warehouse.selection import row_sums
from sf_sagemaker.warehouse.warehouse import Session, SourceColumn, Warehouse, quote


@dataclass(frozen=True)
class Landed:
    """What landing a period did: its rows now and before, and whether they are the same."""

    table: Relation
    partition: str
    rows: int
    previous_rows: int
    unchanged: bool


def land_period(
    warehouse: Warehouse,
    table: Relation,
    file: Path,
    event_time: str,
    period: Period,
    *,
    timezone: str = "UTC",
) -> Landed:
    """Loads the rows of one period from a Parquet file into a table, replacing that period.

    See land_periods.
    """
    return next(land_periods(warehouse, table, file, event_time, [period], timezone=timezone))


def land_periods(
    warehouse: Warehouse,
    table: Relation,
    file: Path,
    event_time: str,
    periods: Iterable[Period],
    *,
    timezone: str = "UTC",
) -> Iterator[Landed]:
    """Lands several periods over one connection, each in its own transaction, as they are done.

    Schema and table are made at first, with the file's columns. A period whose rows are in the
    table already is left alone. The connection is held between results.

    Raises UnreadableFile, ColumnNotFound for an `event_time` the file doesn't have, UnsupportedType
    for one that isn't a time, ColumnTypeChanged, before anything is deleted, when the file's columns
    aren't the table's, and, once the others have landed, EmptyPartition for periods without rows in
    the file: their rows in the table stay.
    """
    with warehouse.writing() as session:
        columns = session.file_columns(file)
        event = find_columns([event_time], columns, str(file))[event_time]
        if session.dialect.family(event.data_type) not in ("date", "timestamp", "zoned"):
            raise UnsupportedType(
                f"{event.name} in {file} is {event.data_type}: rows are landed by a date or a "
                "timestamp; name another column as event_time"
            )
        empty = []
        for period in periods:
            try:
                landed = _land(session, table, file, columns, event, period, timezone)
            except EmptyPartition as error:
                empty.append(error)
                continue
            yield landed
        if empty:
            raise EmptyPartition("\n".join(str(error) for error in empty))


def _land(
    session: Session,
    relation: Relation,
    file: Path,
    columns: Sequence[SourceColumn],
    event: SourceColumn,
    period: Period,
    timezone: str,
) -> Landed:
    staged = session.stage_file(file, _in_period(session, event, period, timezone))
    with session.transaction():
        table = find_relation(session, relation)
        if table is not None:
            _check_columns(relation, table, file, columns)
        sums = row_sums(session, staged, [column.name for column in columns])
        rows = sums.rows
        if rows == 0:
            raise EmptyPartition(
                f"{file} has no rows whose {event.name} lies in {period}; {relation} is unchanged. "
                "Leave that partition out, or fetch a file that covers it"
            )
        if table is None:
            _create(session, relation, staged, columns)
            return Landed(relation, period.key, rows, previous_rows=0, unchanged=False)
        stored = find_columns([column.name for column in columns], table.columns, str(table))
        present = [stored[column.name] for column in columns]
        in_table = _in_period(session, stored[event.name], period, timezone)
        previous = row_sums(
            session, f"{table.sql} where {in_table}", [column.name for column in present]
        )
        unchanged = sums == previous
        if not unchanged:
            names = ", ".join(quote(column.name) for column in present)
            values = ", ".join(quote(column.name) for column in columns)
            session.execute(f"delete from {table.sql} where {in_table}")
            session.execute(f"insert into {table.sql} ({names}) select {values} from {staged}")
        return Landed(relation, period.key, rows, previous.rows, unchanged)


def _create(
    session: Session, relation: Relation, staged: str, columns: Sequence[SourceColumn]
) -> None:
    created = session.dialect.created_name
    parts = [relation.database, relation.schema_name, relation.name]
    names = [quote(created(part)) for part in parts if part]
    if relation.schema_name:
        session.execute(f"create schema if not exists {'.'.join(names[:-1])}")
    values = ", ".join(
        f"{quote(column.name)} as {quote(created(column.name))}" for column in columns
    )
    session.execute(f"create table {'.'.join(names)} as select {values} from {staged}")


def _in_period(session: Session, event: SourceColumn, period: Period, timezone: str) -> str:
    family = session.dialect.family(event.data_type)

    def literal(moment: datetime) -> str:
        if family == "zoned":
            moment = moment.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)
        return session.dialect.time_literal(moment, family)

    name = quote(event.name)
    return f"{name} >= {literal(period.start)} and {name} < {literal(period.end)}"


def _check_columns(
    relation: Relation, table: Table, file: Path, columns: Sequence[SourceColumn]
) -> None:
    before = {column.name.lower(): column for column in table.columns}
    now = {column.name.lower(): column for column in columns}
    problems = [
        f"{name} is {before[name].data_type} in the table and {now[name].data_type} in the file"
        for name in before
        if name in now and before[name].data_type != now[name].data_type
    ]
    problems += [f"{name} is missing from the file" for name in before if name not in now]
    problems += [f"{name} is new in the file" for name in now if name not in before]
    if problems:
        raise ColumnTypeChanged(
            f"the columns of {file} are not those of {relation}: {'; '.join(problems)}. Nothing "
            "was changed. Deliver the file as before, or land everything into a new table"
        )
