"""Temporary tables under their full names, which DuckDB doesn't have.

DuckDB keeps them in a catalog of their own, where `database.schema.table` doesn't find them. Here each
is a table of its schema under a name that only its session has, and statements are rewritten.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from duckdb import DuckDBPyConnection
from sqlglot import Expr, exp

Name = tuple[str | None, str | None, str]


def stored(identifier: Expr | None) -> str | None:
    """The name that an identifier stands for in Snowflake."""
    if not isinstance(identifier, exp.Identifier):
        return None
    return identifier.name if identifier.args.get("quoted") else identifier.name.upper()


def output(selected: Expr) -> str | None:
    """The name of a column that a query gives."""
    return stored(selected.args["alias"] if isinstance(selected, exp.Alias) else selected.this)


class TemporaryTables:
    """The temporary tables and views of one session."""

    def __init__(self) -> None:
        self._suffix = f"__{uuid.uuid4().hex.upper()}"
        self._kinds: dict[Name, str] = {}

    def rewrite(self, connection: Any, parsed: Expr) -> bool:
        """Gives temporary tables the names that they have here; whether there are any."""
        changed = False
        if isinstance(parsed, exp.Create) and parsed.args.get("kind") in ("TABLE", "VIEW"):
            table = parsed.find(exp.Table)
            properties = parsed.args.get("properties")
            found = [] if properties is None else list(properties.find_all(exp.TemporaryProperty))
            name = self._name(connection, table) if table else None
            if found and name:
                for it in found:
                    it.pop()
                self._kinds[name] = parsed.args["kind"]
        dropped = isinstance(parsed, exp.Drop) and parsed.find(exp.Table)
        gone = self._name(connection, dropped) if dropped else None
        for table in list(parsed.find_all(exp.Table)):
            name = self._name(connection, table)
            if name not in self._kinds:
                continue
            if isinstance(table.parent, exp.From | exp.Join) and not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(name[2], quoted=True)))
            table.set("this", exp.to_identifier(name[2] + self._suffix, quoted=True))
            changed = True
        if gone in self._kinds:
            del self._kinds[gone]
        return changed

    def in_stage(self, sql: str) -> str:
        """A statement with the names that tables have here whose stages it names."""
        for _, _, name in self._kinds:
            table = rf'(@[\w".]*%)"?{re.escape(name)}"?(?!\w)'
            sql = re.sub(table, rf"\g<1>{name}{self._suffix}", sql, flags=re.IGNORECASE)
        return sql

    def drop(self, connection: DuckDBPyConnection) -> None:
        """Drops what the session leaves."""
        for (database, schema, name), kind in self._kinds.items():
            parts = '"."'.join(str(it) for it in (database, schema, name + self._suffix))
            connection.execute(f'drop {kind} if exists "{parts}"')
        self._kinds.clear()

    def _name(self, connection: Any, table: exp.Table) -> Name | None:
        name = stored(table.this)
        if name is None:
            return None
        return (
            stored(table.args.get("catalog")) or connection.database,
            stored(table.args.get("db")) or connection.schema,
            name,
        )
