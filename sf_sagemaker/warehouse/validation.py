"""What the rows of a window must be like before anything is exported, checked where they lie."""

from dataclasses import dataclass
from datetime import datetime

from sf_sagemaker.periods import Period, Window
from sf_sagemaker.warehouse.dataset import SPLITS, Column, Dropped, Split, Target
from sf_sagemaker.warehouse.errors import (
    BlankTexts,
    DuplicateKeys,
    EmptyPartition,
    EmptySplit,
    InvalidTarget,
    NullKeys,
    TooManyLevels,
)
from sf_sagemaker.warehouse.selection import Selection
from sf_sagemaker.warehouse.warehouse import SHARD, SPLIT, Session, quote

MAX_LEVELS = 1000

# All that str.strip takes off, as the programs do that learn from texts.
_WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))


@dataclass(frozen=True)
class WindowCounts:
    """Rows of the window: all, with a label not yet known, without a target, usable."""

    rows: int
    not_yet_known: int
    missing_target: int
    usable: int

    def dropped(self, sampled: int) -> Dropped:
        """Why the window's rows aren't in the dataset, given the rows that are."""
        return Dropped(
            missing_target=self.missing_target,
            label_not_yet_known=self.not_yet_known,
            not_sampled=self.usable - sampled,
        )


def check_window(
    session: Session, selection: Selection, window: Window, period: Period
) -> WindowCounts:
    """Counts the window's rows and checks their keys, sampled or not.

    Raises EmptyPartition when the period itself has no rows or the window no usable ones, NullKeys,
    DuplicateKeys, and InvalidTarget when every known target is missing.
    """
    spec, source = selection.spec, selection.table.sql
    in_window = selection.in_interval(window.start, window.end)
    known, labelled = selection.known_by(window.end), selection.labelled()
    keys = selection.key_columns()
    conditions = [
        selection.in_interval(period.start, period.end),
        f"not ({known})",
        f"({known}) and not ({labelled})",
        f"({known}) and ({labelled})",
        *(selection.any_null([name]) for name in keys),
    ]
    counts = ", ".join(f"count(case when {condition} then 1 end)" for condition in conditions)
    total, own, unknown, missing, usable, *nulls = session.rows(
        f"select count(*), {counts} from {source} where {in_window}"
    )[0]
    if own == 0:
        raise EmptyPartition(
            f"{selection.table} has no rows whose {spec.event_time} lies in {period}: "
            "land and build that period first, or leave the partition out"
        )
    if any(nulls):
        found = ", ".join(
            f"{count:,} rows without {name}"
            for name, count in zip(keys, nulls, strict=True)
            if count
        )
        raise NullKeys(
            f"{selection.table} has {found} among the {total:,} rows of the window: every row "
            "needs its row key and split key; filter such rows or repair them in dbt"
        )
    _check_duplicates(session, selection, in_window)
    if usable == 0 and missing:
        raise InvalidTarget(
            f"target {spec.target!r} is missing in all {missing:,} rows of the window whose label "
            "was known by its end: check the column, or label_delay"
        )
    if usable == 0:
        raise EmptyPartition(
            f"none of the {total:,} rows of the window had a label known by its end, "
            f"{window.end:%Y-%m-%d}: lengthen the window, or check label_delay and available_at"
        )
    return WindowCounts(total, unknown, missing, usable)


def check_splits(
    session: Session, staged: str, counts: WindowCounts
) -> dict[tuple[Split, int], int]:
    """Sampled rows by (split, shard), of those that have any. Raises EmptySplit."""
    rows = session.rows(
        f"select {quote(SPLIT)}, {quote(SHARD)}, count(*) from {staged} group by 1, 2"
    )
    shards: dict[tuple[Split, int], int] = {
        (split, int(shard)): int(count) for split, shard, count in rows
    }
    by_split = {
        split: sum(count for (its, _), count in shards.items() if its == split) for split in SPLITS
    }
    if not all(by_split.values()):
        found = ", ".join(f"{split} {count:,}" for split, count in by_split.items())
        raise EmptySplit(
            f"a split has no rows: {found}, out of {counts.usable:,} usable rows in the window. "
            "Lengthen the window, or raise the sample's fraction or that split's share"
        )
    return shards


def describe_target(session: Session, selection: Selection, staged: str) -> Target:
    """The target as the sampled rows show it.

    Raises InvalidTarget when it is constant in the train split, of one class, infinite, or not
    positive for kind positive; TooManyLevels for too many classes; BlankTexts for kind text.
    """
    spec = selection.spec
    name = spec.target.lower()
    column = quote(name)
    if spec.target_kind == "text":
        _check_texts(session, selection, staged)
        return Target(name=name, kind="text")
    train = f"case when {quote(SPLIT)} = 'train' then {column} end"
    low, high, train_low, train_high = session.rows(
        f"select min({column}), max({column}), min({train}), max({train}) from {staged}"
    )[0]
    if train_low == train_high:
        raise InvalidTarget(
            f"target {name!r} is {train_low!r} in every row of the train split: "
            "there is nothing to learn; check the column, or lengthen the window"
        )
    if spec.target_kind == "class":
        classes = _levels(session, f"{staged} where {column} is not null", column, name)
        return Target(name=name, kind="class", classes=classes)
    if float("inf") in (abs(low), abs(high)):
        raise InvalidTarget(f"target {name!r} is infinite in some rows: repair it in dbt")
    if spec.target_kind == "positive" and low <= 0:
        count = session.rows(f"select count(*) from {staged} where {column} <= 0")[0][0]
        raise InvalidTarget(
            f"target {name!r} is zero or negative in {count:,} rows, down to {low:g}: its "
            "logarithm needs positive values; filter those rows in dbt, or use no log transform"
        )
    return Target(name=name, kind=spec.target_kind, minimum=low, maximum=high)


def _check_texts(session: Session, selection: Selection, staged: str) -> None:
    """A model that answers with texts learns nothing from a row that lacks one."""
    names = [column.name for column in selection.columns if column.kind == "text"]
    white_space = session.dialect.text_literal(_WHITE_SPACE)
    counts = ", ".join(
        f"count(*) - count(nullif(trim({quote(name)}, {white_space}), ''))" for name in names
    )
    total, *blank = session.rows(f"select count(*), {counts} from {staged}")[0]
    found = [f"{count:,} a blank {name}" for name, count in zip(names, blank, strict=True) if count]
    if found:
        raise BlankTexts(
            f"of {total:,} rows of {selection.table}, {' and '.join(found)}: leave such rows out in "
            "the dbt model, or let the column be null where it is the target"
        )


def with_levels(session: Session, selection: Selection, staged: str) -> tuple[Column, ...]:
    """The columns, categorical features with their levels in train. Raises TooManyLevels."""

    def levelled(column: Column) -> Column:
        if "feature" not in column.roles or column.kind != "categorical":
            return column
        name = quote(column.name)
        rows = f"{staged} where {quote(SPLIT)} = 'train' and {name} is not null"
        return column.model_copy(update={"levels": _levels(session, rows, name, column.name)})

    return tuple(levelled(column) for column in selection.columns)


def _levels(session: Session, rows: str, column: str, name: str) -> tuple[str, ...]:
    values = session.rows(f"select distinct {column} from {rows} limit {MAX_LEVELS + 1}")
    if len(values) > MAX_LEVELS:
        raise TooManyLevels(
            f"{name!r} has more than {MAX_LEVELS:,} different values: that is free text or an "
            "identifier rather than a category; exclude it, or group its values in dbt"
        )
    return tuple(sorted(value for (value,) in values))


def _check_duplicates(session: Session, selection: Selection, in_window: str) -> None:
    names = [name.lower() for name in selection.spec.row_key]
    keys = ", ".join(selection.source(name) for name in names)
    duplicates = (
        f"select {keys}, count(*) as __times from {selection.table.sql} where {in_window} "
        f"group by {keys} having count(*) > 1"
    )
    found, rows = session.rows(f"select count(*), sum(__times) from ({duplicates}) as duplicates")[
        0
    ]
    if not found:
        return
    examples = session.rows(f"{duplicates} order by {keys} limit 3")
    shown = "; ".join(
        ", ".join(f"{name}={value}" for name, value in zip(names, row, strict=False))
        + f" ({row[-1]} rows)"
        for row in examples
    )
    raise DuplicateKeys(
        f"{selection.table}: {found:,} values of the row key ({', '.join(names)}) occur more than "
        f"once in the window, in {rows:,} rows, for example {shown}. Name the columns that tell "
        "rows apart, or remove duplicates in dbt"
    )


def as_text(moment: datetime) -> str:
    """ISO 8601; a plain date at midnight."""
    return moment.date().isoformat() if moment.time() == moment.min.time() else moment.isoformat()
