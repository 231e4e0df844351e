"""Deterministic sampling in SQL that DuckDB and Snowflake run alike.

Rows are placed by the hexadecimal digits of two md5s. The row hash, over the row key and the seed,
decides membership (digits 1-8) and shard (27-32); the split hash, over the split key and the salt,
decides the split (9-16). The hashes differ by a tag in front, and no two decisions read the same
digits, so none says anything about another even where key, seed and salt coincide.

Everything is plain string functions: neither warehouse needs a conversion from hexadecimal, and
their md5s agree while their own hash functions don't.
"""

from collections.abc import Sequence

from sf_sagemaker.warehouse.dataset import SplitFractions
from sf_sagemaker.warehouse.warehouse import Dialect, Family

_SPACE = 16**8  # values of eight hexadecimal digits


def key_text(columns: Sequence[tuple[str, Family]], dialect: Dialect) -> str:
    """One text expression for a key of one or more columns, given as (expression, family).

    Different keys give different texts: in a key of several columns, texts carry their length, so
    that no separator inside them can shift the border. NULL where any column is NULL. The families
    are integer, text and date; others have no rendering that is the same everywhere.
    """
    parts = []
    for expression, family in columns:
        text = f"cast({expression} as varchar)"
        if family == "date":
            text = dialect.date_text(expression)
        if family == "text" and len(columns) > 1:
            text = f"cast(length({text}) as varchar) || ':' || {text}"
        parts.append(text)
    return " || '|' || ".join(parts)


def row_hash(key: str, seed: int) -> str:
    """The md5 that membership and shard are read from; `key` is a text expression."""
    return f"md5('row|{seed}|' || {key})"


def split_hash(key: str, salt: str, dialect: Dialect) -> str:
    """The md5 that the split is read from; `key` is a text expression."""
    return f"md5({dialect.text_literal(f'split|{salt}|')} || {key})"


def membership(row_hash: str, fraction: float) -> str:
    """A condition that holds for `fraction` of the rows; those of a smaller one are among them."""
    return _below(f"substr({row_hash}, 1, 8)", fraction)


def split(split_hash: str, fractions: SplitFractions) -> str:
    """An expression that is 'train', 'validation' or 'test'."""
    digits = f"substr({split_hash}, 9, 8)"
    return (
        f"case when {_below(digits, fractions.train)} then 'train' "
        f"when {_below(digits, fractions.train + fractions.validation)} then 'validation' "
        "else 'test' end"
    )


def shard(row_hash: str, shards: int) -> str:
    """An integer expression in 0 … shards - 1, at most 1000 of them (24 bits keep them even)."""
    if shards == 1:
        return "0"
    number = " + ".join(
        f"{16 ** (32 - place)} * "
        f"(position(substr({row_hash}, {place}, 1) in '0123456789abcdef') - 1)"
        for place in range(27, 33)
    )
    return f"mod({number}, {shards})"


def _below(digits: str, fraction: float) -> str:
    threshold = round(fraction * _SPACE)
    # Hexadecimal texts of one length sort as numbers; 16^8 itself takes nine digits.
    return "1 = 1" if threshold >= _SPACE else f"{digits} < '{threshold:08x}'"
