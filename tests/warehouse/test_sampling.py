"""Sampling as SQL: what it decides for keys of every kind, and that decisions are independent."""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_sagemaker.warehouse import sampling
from sf_sagemaker.warehouse.dataset import SplitFractions
from sf_sagemaker.warehouse.duckdb import DuckDBDialect

DIALECT = DuckDBDialect()
TRICKY = st.text(alphabet="ab|:1'\\ é界\x1f%", max_size=6)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40, unique=True)
TEXT = st.text(max_size=12).filter(lambda text: "\0" not in text)
TEXTS = st.lists(TEXT, min_size=1, unique=True)
FRACTIONS = st.floats(min_value=0.0001, max_value=1)


def decide(
    keys: Sequence[Any],
    *,
    seed: int = 0,
    salt: str = "split",
    fraction: float = 1.0,
    shards: int = 1,
    splits: SplitFractions | None = None,
) -> dict[Any, tuple[bool, str, int]]:
    """(member, split, shard) of each key, which is row key and split key at once."""
    family = {int: "integer", str: "text", date: "date"}[type(keys[0])]
    types = {"integer": pa.int64(), "text": pa.string(), "date": pa.date32()}
    key = sampling.key_text([("key", family)], DIALECT)  # type: ignore[list-item]
    with duckdb.connect() as connection:
        connection.register("keys", pa.table({"key": pa.array(keys, type=types[family])}))
        rows = connection.execute(
            f"select key, {sampling.membership('r', fraction)}, "
            f"{sampling.split('s', splits or SplitFractions())}, {sampling.shard('r', shards)} "
            f"from (select key, {sampling.row_hash(key, seed)} as r, "
            f"{sampling.split_hash(key, salt, DIALECT)} as s from keys)"
        ).fetchall()
    return {key: (member, split, shard) for key, member, split, shard in rows}


def expected(text: str, seed: int, salt: str, fraction: float, shards: int) -> Any:
    """The same decisions in Python, from the digits that the module documents."""
    row = hashlib.md5(f"row|{seed}|{text}".encode()).hexdigest()
    place = int(hashlib.md5(f"split|{salt}|{text}".encode()).hexdigest()[8:16], 16) / 16**8
    split = "train" if place < 0.8 else "validation" if place < 0.9 else "test"
    return int(row[:8], 16) < round(fraction * 16**8), split, int(row[26:], 16) % shards


@settings(max_examples=40, deadline=None)
@given(
    keys=st.one_of(INTEGERS, TEXTS, st.lists(st.dates(), min_size=1, unique=True)),
    seed=st.integers(-5, 2**40),
    salt=TRICKY,
    fraction=FRACTIONS,
    shards=st.integers(1, 1000),
)
def test_decisions_are_the_documented_digits_of_md5(
    keys: list[Any], seed: int, salt: str, fraction: float, shards: int
) -> None:
    found = decide(keys, seed=seed, salt=salt, fraction=fraction, shards=shards)
    assert found == {key: expected(str(key), seed, salt, fraction, shards) for key in keys}


@settings(max_examples=25, deadline=None)
@given(keys=INTEGERS, seed=st.integers(), fractions=st.tuples(FRACTIONS, FRACTIONS))
def test_smaller_samples_are_subsets_of_larger(
    keys: list[int], seed: int, fractions: tuple[float, float]
) -> None:
    small, large = (
        {key for key, (member, *_) in decide(keys, seed=seed, fraction=fraction).items() if member}
        for fraction in sorted(fractions)
    )
    assert small <= large


@settings(max_examples=25, deadline=None)
@given(
    keys=TEXTS,
    seeds=st.tuples(st.integers(), st.integers()),
    fractions=st.tuples(FRACTIONS, FRACTIONS),
    shards=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_split_depends_on_nothing_but_split_key_and_salt(
    keys: list[str],
    seeds: tuple[int, int],
    fractions: tuple[float, float],
    shards: tuple[int, int],
) -> None:
    one, other = (
        decide(keys, seed=seed, fraction=fraction, shards=count)
        for seed, fraction, count in zip(seeds, fractions, shards, strict=True)
    )
    assert {key: its[1] for key, its in one.items()} == {key: its[1] for key, its in other.items()}


@settings(max_examples=150, deadline=None)
@given(st.tuples(TRICKY, TRICKY), st.tuples(TRICKY, TRICKY))
def test_different_keys_of_two_texts_never_look_alike(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    text = sampling.key_text([("a", "text"), ("b", "text")], DIALECT)
    query = f"select {text} from (select ? as a, ? as b)"
    first, second = (duckdb.execute(query, list(key)).fetchall() for key in (one, other))
    assert (first == second) == (one == other)


def test_a_shifted_separator_makes_another_key() -> None:
    text = sampling.key_text([("a", "text"), ("b", "text")], DIALECT)
    values = "values ('a|', 'b'), ('a', '|b'), ('a|1:b', '')"
    rows = duckdb.execute(f"select {text} from ({values}) t(a, b)").fetchall()
    assert len(set(rows)) == 3


def test_a_null_in_any_column_makes_the_key_null() -> None:
    text = sampling.key_text([("a", "integer"), ("b", "text")], DIALECT)
    values = "values (1, null), (null, 'x'), (1, 'x')"
    rows = duckdb.execute(f"select {text} is null from ({values}) t(a, b)").fetchall()
    assert rows == [(True,), (True,), (False,)]


def test_samples_shards_and_splits_have_their_sizes() -> None:
    found = decide(range(20_000), seed=3, fraction=0.3, shards=7)
    members = [its for its in found.values() if its[0]]
    # Four standard deviations of a binomial around each expected count.
    assert abs(len(members) - 6000) < 4 * (20_000 * 0.3 * 0.7) ** 0.5
    for shard in range(7):
        count = sum(its[2] == shard for its in members)
        assert abs(count - len(members) / 7) < 4 * (len(members) * 6 / 49) ** 0.5
    assert {its[2] for its in members} == set(range(7))
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        count = sum(its[1] == split for its in members)
        assert abs(count - share * len(members)) < 4 * (len(members) * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(("seed", "salt"), [(0, "split"), (7, "7")])
def test_membership_split_and_shard_are_independent(seed: int, salt: str) -> None:
    found = decide(range(20_000), seed=seed, salt=salt, fraction=0.1, shards=5)
    thirds = SplitFractions(train=0.5, validation=0.25, test=0.25)
    halves = decide(range(20_000), seed=seed, salt=salt, fraction=0.5, shards=2, splits=thirds)
    tenths = SplitFractions(train=0.1, validation=0.45, test=0.45)
    same = decide(range(20_000), seed=seed, salt=salt, fraction=0.1, shards=2, splits=tenths)
    for decisions in (found, halves, same):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert chi_square(decisions, one, other) < 26  # 0.1 % point at 8 degrees of freedom


def chi_square(decisions: dict[Any, tuple[bool, str, int]], one: int, other: int) -> float:
    """Pearson's statistic of the table of two decisions; large when one tells about the other."""
    rows = [(its[one], its[other]) for its in decisions.values()]
    statistic = 0.0
    for a in {row[0] for row in rows}:
        for b in {row[1] for row in rows}:
            mean = sum(r[0] == a for r in rows) * sum(r[1] == b for r in rows) / len(rows)
            statistic += (sum(row == (a, b) for row in rows) - mean) ** 2 / mean
    return statistic


@pytest.mark.slow
def test_snowflakes_sql_gives_the_same_rows() -> None:
    import fakesnow
    import snowflake.connector

    key = sampling.key_text([("id", "integer"), ("name", "text")], DIALECT)
    splits = SplitFractions()
    query = (
        f"select id, {sampling.membership('r', 0.2)}, {sampling.split('s', splits)}, "
        f"{sampling.shard('r', 7)} from (select id, {sampling.row_hash(key, 7)} as r, "
        f"{sampling.split_hash(key, 'its', DIALECT)} as s from keys) as hashed order by id"
    )
    table = "create table keys (id integer, name varchar)"
    values = ", ".join(f"({i}, 'näme|{i % 50}')" for i in range(500))
    with duckdb.connect() as connection:
        connection.execute(table)
        connection.execute(f"insert into keys values {values}")
        here = connection.execute(query).fetchall()
    with fakesnow.patch():
        connection = snowflake.connector.connect(database="db", schema="public")
        cursor = connection.cursor()
        cursor.execute(table)
        cursor.execute(f"insert into keys values {values}")
        there = cursor.execute(query).fetchall()  # type: ignore[union-attr]
    assert [tuple(row) for row in there] == here
    assert len({row[1:] for row in here}) > 20
