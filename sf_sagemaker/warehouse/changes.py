"""What changed in a table that others maintain: when it did last, and in which of its periods."""

from dataclasses import dataclass
from datetime import datetime

from sf_sagemaker.periods import Cadence
from sf_sagemaker.warehouse.catalog import find_columns, get_relation
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.errors import UnsupportedType
from sf_sagemaker.warehouse.selection import sums_by_period
from sf_sagemaker.warehouse.warehouse import Session, quote


@dataclass(frozen=True)
class PeriodRows:
    """The rows of a period: how many, and a version that differs as soon as one of them does."""

    partition: str
    rows: int
    version: str


def last_altered(session: Session, relation: Relation) -> datetime | None:
    """When a table changed last, in UTC; None where nothing records it.

    Snowflake records it for tables, dynamic ones too, and not for views; DuckDB for nothing.
    Raises RelationNotFound.
    """
    table = get_relation(session, relation)
    return session.last_altered(table.database, table.schema, table.name)


def period_rows(
    session: Session, relation: Relation, event_time: str, cadence: Cadence
) -> dict[str, PeriodRows]:
    """The periods that a table has rows of, by partition key, in one scan over its columns.

    Rows without an event time belong to none, and columns that are neither numbers, texts, booleans
    nor times are not looked at. Raises RelationNotFound, ColumnNotFound and UnsupportedType.
    """
    table = get_relation(session, relation)
    dialect = session.dialect
    event = find_columns([event_time], table.columns, str(table))[event_time]
    family = dialect.family(event.data_type)
    if family not in ("date", "timestamp", "zoned"):
        raise UnsupportedType(
            f"{event.name} of {table} is {event.data_type}: an event time is a date or a timestamp"
        )
    moment = quote(event.name)
    if family == "zoned":
        moment = dialect.local_time(moment, cadence.timezone)
    columns = [quote(it.name) for it in table.columns if dialect.family(it.data_type) != "other"]
    first, second = dialect.row_hashes(columns)
    days = session.rows(
        f"select cast({moment} as {dialect.date}), count(*), sum({first}), sum({second}) "
        f"from {table.sql} where {quote(event.name)} is not null group by 1"
    )
    algorithm = dialect.fingerprint_algorithm
    return {
        partition: PeriodRows(partition, sums.rows, sums.fingerprint(algorithm).value)
        for partition, sums in sums_by_period(days, cadence).items()
    }
