"""From a specification to SQL: the columns of a dataset, their casts, the rows it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sf_sagemaker.periods import Cadence
from sf_sagemaker.warehouse import sampling
from sf_sagemaker.warehouse.catalog import Table, find_columns, get_relation
from sf_sagemaker.warehouse.dataset import Column, DatasetSpec, Fingerprint, Kind, Role
from sf_sagemaker.warehouse.errors import ConflictingRoles, ReservedColumn, UnsupportedType
from sf_sagemaker.warehouse.warehouse import (
    ORDER,
    SHARD,
    SPLIT,
    Dialect,
    Family,
    Session,
    SourceColumn,
    quote,
)

_HASH_SPACE = 2**64
_NUMBERS = ("integer", "decimal", "float", "boolean")
_ROW_HASH, _SPLIT_HASH = "__row_hash", "__split_hash"
# `shard` is also a folder that readers parse.
_RESERVED = ("split", "shard", SPLIT, SHARD, ORDER, _ROW_HASH, _SPLIT_HASH)


@dataclass(frozen=True)
class RowSums:
    """Sums of row hashes: equal for equal rows in any order; those of parts add up to the whole."""

    rows: int = 0
    first: int = 0
    second: int = 0

    def __add__(self, other: RowSums) -> RowSums:
        return RowSums(
            self.rows + other.rows,
            (self.first + other.first) % _HASH_SPACE,
            (self.second + other.second) % _HASH_SPACE,
        )

    def fingerprint(self, algorithm: str) -> Fingerprint:
        return Fingerprint(
            algorithm=algorithm, value=f"{self.rows:x}-{self.first:016x}-{self.second:016x}"
        )


def row_sums(session: Session, rows: str, columns: Sequence[str]) -> RowSums:
    """The sums over the columns of a table or subquery of rows."""
    first, second = session.dialect.row_hashes([quote(column) for column in columns])
    sums = session.rows(f"select count(*), sum({first}), sum({second}) from {rows}")[0]
    count, *others = (int(value or 0) for value in sums)
    return RowSums(count, *(value % _HASH_SPACE for value in others))


def sums_by_period(days: Iterable[Sequence[Any]], cadence: Cadence) -> dict[str, RowSums]:
    """Rows of (day, rows, sum, sum) by partition key; days outside the periods are left out.

    Periods begin at midnight, so that a day belongs to one of them.
    """
    sums: dict[str, RowSums] = {}
    for day, count, first, second in days:
        period = cadence.containing(datetime(day.year, day.month, day.day))
        if period is not None:
            part = RowSums(int(count), int(first) % _HASH_SPACE, int(second) % _HASH_SPACE)
            sums[period.key] = sums.get(period.key, RowSums()) + part
    return sums


@dataclass(frozen=True)
class Selection:
    """The columns and rows of a specification, resolved against the table it names."""

    spec: DatasetSpec
    table: Table
    columns: tuple[Column, ...]
    sources: Mapping[str, SourceColumn]
    dialect: Dialect
    timezone: str

    def family(self, name: str) -> Family:
        """The type family of a column, named as configured or as exported."""
        return self.dialect.family(self.sources[name.lower()].data_type)

    def source(self, name: str) -> str:
        """The quoted column as the warehouse stores it."""
        return quote(self.sources[name.lower()].name)

    def key_columns(self) -> tuple[str, ...]:
        """The exported names of the columns of row key and split key, each once."""
        keys = (*self.spec.row_key, *self.spec.split_key)
        return tuple(dict.fromkeys(name.lower() for name in keys))

    def in_interval(self, start: datetime, end: datetime) -> str:
        """The event lies in [start, end)."""
        event = self.source(self.spec.event_time)
        return (
            f"{event} >= {self._bound(self.spec.event_time, start)} "
            f"and {event} < {self._bound(self.spec.event_time, end)}"
        )

    def known_by(self, moment: datetime) -> str:
        """The label was known before `moment`: by `available_at`, or by the delay since the event.

        Both strictly: what becomes known on the day of `moment` belongs to what comes after.
        """
        if self.spec.available_at is not None:
            name = self.spec.available_at
            return (
                f"{self.source(name)} is not null and "
                f"{self.source(name)} < {self._bound(name, moment)}"
            )
        latest = moment - timedelta(days=self.spec.label_delay)
        event = self.spec.event_time
        return f"{self.source(event)} < {self._bound(event, latest)}"

    def labelled(self) -> str:
        """The target is there."""
        target = self.source(self.spec.target)
        present = f"{target} is not null"
        if self.family(self.spec.target) == "float":
            present += f" and not ({self.dialect.not_a_number(target)})"
        return present

    def any_null(self, names: Iterable[str]) -> str:
        """One of the columns is NULL."""
        return " or ".join(f"{self.source(name)} is null" for name in names)

    def rows(self, condition: str, *, sampled: bool) -> str:
        """A query for the rows that meet a condition over the source's own columns.

        It gives the exported columns and SPLIT; when sampled, only members of the sample, with
        SHARD and ORDER.
        """
        spec = self.spec
        row_hash = sampling.row_hash(self._key(spec.row_key), spec.seed)
        split_hash = sampling.split_hash(self._key(spec.split_key), spec.salt, self.dialect)
        exported = [f"{self._cast(column)} as {quote(column.name)}" for column in self.columns]
        exported.append(f"{sampling.split(quote(_SPLIT_HASH), spec.splits)} as {quote(SPLIT)}")
        hashes = [f"{split_hash} as {quote(_SPLIT_HASH)}"]
        sample = ""
        if sampled:
            name = quote(_ROW_HASH)
            hashes.append(f"{row_hash} as {name}")
            exported.append(f"{sampling.shard(name, spec.shards)} as {quote(SHARD)}")
            exported.append(f"{self.dialect.sort_key(name)} as {quote(ORDER)}")
            sample = f"\nwhere {sampling.membership(name, spec.fraction)}"
        return (
            f"select {', '.join(exported)}\n"
            f"from (\n  select source.*, {', '.join(hashes)}\n"
            f"  from {self.table.sql} as source\n  where {condition}\n) as source{sample}"
        )

    def sums_by_day(self, rows: str, names: Sequence[str] = ()) -> str:
        """A query for (day of the event, rows, sum, sum) over a table or subquery of rows.

        The sums are of all exported columns, or of those that are named.
        """
        columns = [name.lower() for name in names] or [column.name for column in self.columns]
        first, second = self.dialect.row_hashes([quote(column) for column in columns])
        day = f"cast({quote(self.spec.event_time.lower())} as {self.dialect.date})"
        return f"select {day}, count(*), sum({first}), sum({second}) from {rows} group by 1"

    def _key(self, names: Sequence[str]) -> str:
        return sampling.key_text(
            [(self.source(name), self.family(name)) for name in names], self.dialect
        )

    def _bound(self, name: str, moment: datetime) -> str:
        family = self.family(name)
        if family == "zoned":
            moment = moment.replace(tzinfo=ZoneInfo(self.timezone))
        return self.dialect.time_literal(moment, family)

    def _cast(self, column: Column) -> str:
        expression, family = quote(column.source_name), self.family(column.name)
        if family == "zoned":
            expression = self.dialect.local_time(expression, self.timezone)
        elif family == "boolean" and column.type != self.dialect.text:
            expression = f"cast({expression} as {self.dialect.integer})"
        return f"cast({expression} as {column.type})"


def select_rows(
    session: Session, spec: DatasetSpec, timezone: str, features: Sequence[str] | None = None
) -> Selection:
    """Resolves a specification's columns and checks that each can play its role.

    `features` overrides the specification's, for looking at rows as an earlier dataset had them.

    Raises RelationNotFound, ColumnNotFound, AmbiguousName, ReservedColumn, ConflictingRoles and
    UnsupportedType.
    """
    table = get_relation(session, spec.source)
    features = spec.features if features is None else features
    roles = _roles(spec, table, features)
    sources = find_columns(list(roles), table.columns, str(table))
    if len({column.name.lower() for column in table.columns}) < len(table.columns):
        # Two columns that differ only in case can't both be exported in lower case.
        find_columns([column.name for column in table.columns], table.columns, str(table))
    reserved = [name for name in roles if name in _RESERVED]
    if reserved:
        raise ReservedColumn(
            f"{table} has a column {reserved[0]!r}, a name that datasets use for themselves: "
            "exclude it, or rename it in the source"
        )
    columns, problems = [], []
    for name, its_roles in roles.items():
        source = sources[name]
        family = session.dialect.family(source.data_type)
        problem = _problem(spec, its_roles, family)
        if problem:
            problems.append(f"{source.name} ({source.data_type}) {problem}")
            continue
        kind, data_type = _cast_of(spec, its_roles, family, session.dialect)
        columns.append(
            Column(
                name=name,
                source_name=source.name,
                source_type=source.data_type,
                type=data_type,
                kind=kind,
                roles=tuple(its_roles),
            )
        )
    if problems:
        raise UnsupportedType(
            f"columns of {table} can't be used as configured: {'; '.join(problems)}"
        )
    return Selection(spec, table, tuple(columns), sources, session.dialect, timezone)


def _roles(
    spec: DatasetSpec, table: Table, features: Sequence[str] | None
) -> dict[str, list[Role]]:
    """Lower-case column names, in the order of export, with the roles of each."""
    find_columns(spec.exclude, table.columns, str(table))
    roles: dict[str, list[Role]] = {}
    named: list[tuple[Role, Sequence[str]]] = [
        ("row_key", spec.row_key),
        ("split_key", spec.split_key),
        ("event_time", (spec.event_time,)),
        ("available_at", (spec.available_at,) if spec.available_at else ()),
        ("target", (spec.target,)),
    ]
    for role, names in named:
        for name in names:
            roles.setdefault(name.lower(), []).append(role)
    excluded = {name.lower() for name in spec.exclude}
    if features is None:
        features = [
            column.name
            for column in table.columns
            if column.name.lower() not in roles and column.name.lower() not in excluded
        ]
    else:
        both = [name for name in features if name.lower() in excluded]
        if both:
            raise ConflictingRoles(f"{both[0]!r} is both a feature and excluded: choose one")
    for name in dict.fromkeys(name.lower() for name in features):
        roles.setdefault(name, []).append("feature")
    if len(roles[spec.target.lower()]) > 1:
        others = ", ".join(role for role in roles[spec.target.lower()] if role != "target")
        raise ConflictingRoles(
            f"target {spec.target!r} is also {others}: a target can have no other role"
        )
    if not any("feature" in its for its in roles.values()):
        raise ConflictingRoles(
            f"no column of {table} is left as a feature: it has "
            f"{', '.join(column.name for column in table.columns)}; list some under features, or "
            "exclude fewer"
        )
    return roles


def _problem(spec: DatasetSpec, roles: Sequence[Role], family: Family) -> str | None:
    """Why a column of that family can't play its roles, and what to do; None where it can."""
    keys = [role for role in roles if role in ("row_key", "split_key")]
    if keys and family not in ("integer", "text", "date"):
        return (
            f"is a {' and '.join(keys)}: keys are integers, texts or dates, since other types are "
            "written differently from warehouse to warehouse; cast it in dbt"
        )
    times = [role for role in roles if role in ("event_time", "available_at")]
    if times and family not in ("date", "timestamp", "zoned"):
        return f"is {' and '.join(times)}: it must be a date or a timestamp; cast it in dbt"
    if "feature" in roles and family not in (*_NUMBERS, "text"):
        advice = (
            "derive numbers from it in dbt (its month, days since an event), or exclude it"
            if family in ("date", "timestamp", "zoned")
            else "exclude it, or turn it into numbers or text in dbt"
        )
        return f"is a feature: features are numbers, booleans or texts; {advice}"
    if "target" in roles:
        allowed: dict[str, tuple[str, ...]] = {
            "class": ("text", "integer", "boolean"),
            "text": ("text",),
        }
        if family not in allowed.get(spec.target_kind, _NUMBERS):
            expected = " or ".join(allowed.get(spec.target_kind, ("a number",)))
            return f"is a target of kind {spec.target_kind}: it must be {expected}; cast it in dbt"
    return None


def _cast_of(
    spec: DatasetSpec, roles: Sequence[Role], family: Family, dialect: Dialect
) -> tuple[Kind, str]:
    """The kind of an exported column and the type it is cast to."""
    own = {"integer": dialect.integer, "text": dialect.text, "date": dialect.date}
    is_key = "row_key" in roles or "split_key" in roles
    if "event_time" in roles or "available_at" in roles:
        return "time", own.get(family, dialect.timestamp)
    if "target" in roles:
        if spec.target_kind == "class":
            return "categorical", dialect.text
        return ("text", dialect.text) if spec.target_kind == "text" else ("numeric", dialect.double)
    if "feature" in roles and family == "text":
        return spec.string_features, dialect.text
    if "feature" in roles:
        # XGBoost stores features in 32 bits; a key keeps the type that names its rows.
        return "numeric", own[family] if is_key else dialect.float32
    return "key", own[family]
