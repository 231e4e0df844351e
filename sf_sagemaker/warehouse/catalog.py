"""Finding relations and columns: names as people write them, against the information schema."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.errors import AmbiguousName, ColumnNotFound, RelationNotFound
from sf_sagemaker.warehouse.warehouse import Session, SourceColumn, TableVersion, quote


@dataclass(frozen=True)
class Table:
    """A relation that exists, under the exact names that the warehouse stores.

    With a `version`, queries read that one.
    """

    database: str
    schema: str
    name: str
    columns: tuple[SourceColumn, ...]
    version: TableVersion | None = None

    @property
    def sql(self) -> str:
        name = ".".join(quote(part) for part in (self.database, self.schema, self.name))
        return f"{name} {self.version.clause}" if self.version else name

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def find_relation(session: Session, relation: Relation) -> Table | None:
    """The table or view of that name, or None. Case doesn't matter.

    Without a schema, the session's own schema comes first, then the only other one that has it.
    Raises AmbiguousName where several fit.
    """
    literal = session.dialect.text_literal
    (current,) = session.rows("select current_database(), current_schema()")
    current_database, current_schema = current
    database = relation.database or current_database
    conditions = [
        f"lower(table_catalog) = lower({literal(database)})",
        f"lower(table_name) = lower({literal(relation.name)})",
    ]
    if relation.schema_name:
        conditions.append(f"lower(table_schema) = lower({literal(relation.schema_name)})")
    rows = session.rows(
        "select table_catalog, table_schema, table_name, column_name, data_type, "
        "numeric_precision, numeric_scale "
        f"from {session.dialect.information_schema(relation.database)}.columns "
        f"where {' and '.join(conditions)} order by ordinal_position"
    )
    found: dict[tuple[str, str, str], list[SourceColumn]] = {}
    for catalog, schema, name, column, data_type, precision, scale in rows:
        if data_type in ("NUMBER", "DECIMAL", "NUMERIC"):
            data_type = f"{data_type}({precision},{scale})"
        found.setdefault((catalog, schema, name), []).append(SourceColumn(column, data_type))
    own = {key: columns for key, columns in found.items() if key[1] == current_schema}
    candidates = own if own and not relation.schema_name else found
    if len(candidates) > 1:
        names = ", ".join(sorted(".".join(key) for key in candidates))
        raise AmbiguousName(
            f"{relation} could be any of {names}: name its schema, or rename one of them"
        )
    for (catalog, schema, name), columns in candidates.items():
        return Table(catalog, schema, name, tuple(columns))
    return None


def get_relation(session: Session, relation: Relation) -> Table:
    """Like find_relation, for a relation that must be there. Raises RelationNotFound."""
    table = find_relation(session, relation)
    if table is None:
        schema = session.dialect.information_schema(relation.database)
        there = [
            f"{schema_name}.{name}"
            for schema_name, name in session.rows(
                f"select distinct table_schema, table_name from {schema}.columns "
                "where lower(table_schema) <> 'information_schema' order by 1, 2"
            )
        ]
        raise RelationNotFound(
            f"the warehouse has no table or view {relation}"
            + suggest(relation.name, (name.split(".")[-1] for name in there))
            + f". It has: {', '.join(there[:50]) or 'none at all'}. "
            "Build it first, or correct the name"
        )
    return table


def pinned(session: Session, table: Table) -> Table:
    """The table as it is now, for all queries to come, where the warehouse keeps its versions."""
    return replace(table, version=session.version_of(table.database, table.schema, table.name))


def find_columns(
    names: Sequence[str], columns: Sequence[SourceColumn], owner: str
) -> dict[str, SourceColumn]:
    """The column that each name stands for, whatever its case; `owner` is for the message.

    Raises ColumnNotFound with the columns there are, and AmbiguousName.
    """
    by_name: dict[str, list[SourceColumn]] = {}
    for column in columns:
        by_name.setdefault(column.name.lower(), []).append(column)
    missing = [name for name in dict.fromkeys(names) if name.lower() not in by_name]
    if missing:
        hints = "; ".join(f"no column {name!r}{suggest(name, by_name)}" for name in missing)
        raise ColumnNotFound(
            f"{owner} has {hints}. Its columns are: {', '.join(column.name for column in columns)}"
        )
    for name in names:
        if len(by_name[name.lower()]) > 1:
            spellings = ", ".join(column.name for column in by_name[name.lower()])
            raise AmbiguousName(
                f"{owner} has columns that differ only in case: {spellings}. Rename one of them"
            )
    return {name: by_name[name.lower()][0] for name in names}


def suggest(name: str, names: Iterable[str]) -> str:
    """' (did you mean …?)' when something close is there, else nothing."""
    close = difflib.get_close_matches(name.lower(), sorted({other.lower() for other in names}), n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
