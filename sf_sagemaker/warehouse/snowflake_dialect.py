"""SQL as Snowflake writes it: types, literals, names. Knows no connection."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from sf_sagemaker.warehouse.warehouse import Family, quote

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_FIXED = re.compile(r"(?:NUMBER|DECIMAL|NUMERIC)(?:\(\d+,\s*(\d+)\))?")

# As the information schema spells them; whole numbers and decimals are NUMBER(precision,scale).
_FAMILIES: dict[str, Family] = {
    "FLOAT": "float",
    "TEXT": "text",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP_NTZ": "timestamp",
    "TIMESTAMP_LTZ": "zoned",
    "TIMESTAMP_TZ": "zoned",
}


class SnowflakeDialect:
    """Expressions in, expressions out; what is created gets upper-case names.

    Snowflake has no 32-bit numbers: features are doubles here, and XGBoost rounds them to 32 bits
    when it reads them, to the same values that a cast would give.
    """

    float32 = "DOUBLE"
    double = "DOUBLE"
    text = "VARCHAR"
    integer = (
        "BIGINT"  # a NUMBER(38,0) in a table; in an unload's cast, a 64-bit integer in Parquet
    )
    date = "DATE"
    timestamp = "TIMESTAMP_NTZ"

    # HASH is over values, not over texts of them, so that no rendering can lose a digit.
    fingerprint_algorithm = "snowflake-hash-sums"

    def row_hashes(self, columns: Sequence[str]) -> tuple[str, str]:
        return f"hash({', '.join(columns)})", f"hash('second', {', '.join(reversed(columns))})"

    def family(self, data_type: str) -> Family:
        fixed = _FIXED.fullmatch(data_type)
        if fixed:
            return "integer" if fixed[1] in (None, "0") else "decimal"
        return _FAMILIES.get(data_type, "other")

    def text_literal(self, value: str) -> str:
        # A backslash escapes in Snowflake's literals.
        return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"

    def time_literal(self, moment: datetime, family: Family) -> str:
        # Typed by casts: what TIMESTAMP alone means is a setting of the session.
        if family == "zoned":
            text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f +00:00")
            return f"cast('{text}' as timestamp_tz)"
        if family == "date" and moment == moment.replace(hour=0, minute=0, second=0, microsecond=0):
            return f"cast('{moment:%Y-%m-%d}' as date)"
        return f"cast('{moment:%Y-%m-%d %H:%M:%S.%f}' as timestamp_ntz)"

    def date_text(self, expression: str) -> str:
        return f"to_char({expression}, 'YYYY-MM-DD')"

    def local_time(self, expression: str, timezone: str) -> str:
        zoned = f"convert_timezone({self.text_literal(timezone)}, {expression})"
        return f"cast({zoned} as timestamp_ntz)"

    def sort_key(self, hexadecimal: str) -> str:
        return f"substr({hexadecimal}, 1, 16)"

    def not_a_number(self, expression: str) -> str:
        return f"{expression} = cast('NaN' as double)"  # equal to itself here

    def created_name(self, name: str) -> str:
        return name.upper()

    def information_schema(self, database: str | None) -> str:
        if database is None:
            return "information_schema"
        # Unquoted, a name is resolved without regard to case, as its owner wrote it.
        plain = _PLAIN_NAME.fullmatch(database)
        return f"{database if plain else quote(database)}.information_schema"
