"""Is a fine-tuned language model worth it, beside models that answer the same held-out rows?

Everything is computed from who was right on which row: shares with bootstrap intervals, and differences
on the rows that both answered. An answer is right that is the row's completion, but for case, white
space, quotation marks around it and a full stop behind it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.intervals import Interval, bootstrap

if TYPE_CHECKING:
    import numpy as np

_SPACE = re.compile(r"\s+")
_FEWEST = 30  # rows: an interval over fewer promises more than it holds
_MARKS = "\"'`*“”‘’«»"


class NothingToCompare(SfSagemakerError):
    """No row that was answered."""


def plain_answer(text: str) -> str:
    """A written answer without what doesn't make it another one."""
    text = _SPACE.sub(" ", text).strip().strip(_MARKS).strip()
    return text.removesuffix(".").strip().strip(_MARKS).strip().casefold()


@dataclass(frozen=True)
class Contestant:
    """Who was right on which row: `right` has 1, 0, and NaN where a row has no answer.

    `cost_per_1000` is that of a thousand answers, `cost` that of these; both None where it isn't known.
    Latencies are in milliseconds.
    """

    name: str
    right: "np.ndarray"
    cost: float | None = None
    cost_per_1000: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class Placing:
    """A contestant's share of right answers, and how far it is from the fine-tuned model.

    `difference` is its share less the fine-tuned model's, on the `common` rows that both answered.
    """

    contestant: Contestant
    rows: int
    share: Interval
    difference: Interval
    common: int


def place(
    fine_tuned: Contestant, others: Sequence[Contestant], *, seed: int
) -> tuple[Placing, ...]:
    """All contestants, the fine-tuned model first, in the order given. Raises NothingToCompare."""
    import numpy as np

    if not any(np.isfinite(one.right).any() for one in (fine_tuned, *others)):
        raise NothingToCompare("no row has an answer of any model")
    placings = []
    for one in (fine_tuned, *others):
        answered = one.right[np.isfinite(one.right)]
        both = np.isfinite(one.right) & np.isfinite(fine_tuned.right)
        differences = one.right[both] - fine_tuned.right[both]
        placings.append(
            Placing(
                contestant=one,
                rows=len(answered),
                share=_mean(answered, seed),
                difference=_mean(differences, seed),
                common=int(both.sum()),
            )
        )
    return tuple(placings)


def _mean(values: "np.ndarray", seed: int) -> Interval:
    return bootstrap(lambda rows: values[rows].mean(axis=1), len(values), seed=seed, draws=1000)


@dataclass(frozen=True)
class Verdict:
    """The answer to "is our fine-tuned model worth it?". `better` None: the rows can't tell."""

    better: bool | None
    sentence: str


def judge(
    placings: Sequence[Placing],
    rivals: Sequence[str],
    *,
    currency: str = "",
    training_cost: float | None = None,
) -> Verdict:
    """Whether the fine-tuned model, the first of the placings, is worth it beside its best rival.

    The best rival is the one with the largest share of right answers, on the rows that it answered.
    `training_cost` is in the currency of the rivals' costs.
    """
    measured = [one for one in placings if one.contestant.name in rivals and one.common]
    if not measured:
        return Verdict(None, "No row was answered by both, so there is no answer yet.")
    best = max(measured, key=lambda one: one.share.estimate)
    away = best.difference
    gap = Interval(0.0 - away.estimate, 0.0 - away.high, 0.0 - away.low)
    told = gap.low > 0 or gap.high < 0
    better = gap.low > 0 if told and best.common >= _FEWEST else None
    sentences = [
        _difference(best.contestant.name, best.common, gap, better),
        *_money(best.contestant, currency, training_cost),
        *_cheaper(placings),
    ]
    return Verdict(better, " ".join(sentences))


def _difference(rival: str, rows: int, gap: Interval, better: bool | None) -> str:
    if rows < _FEWEST:
        return f"{rows:,} rows that both answered are too few to tell: it takes {_FEWEST} or more."
    if better is None:
        return (
            f"By these {rows:,} rows, the fine-tuned model and {rival} can't be told apart: the "
            f"difference is {100 * gap.estimate:+.1f} points (95 % interval {100 * gap.low:+.1f} to "
            f"{100 * gap.high:+.1f})."
        )
    least, most = sorted(100 * abs(bound) for bound in (gap.low, gap.high))
    points = f"{100 * abs(gap.estimate):.1f} points (95 % interval {least:.1f} to {most:.1f})"
    if better:
        return (
            f"Yes: on the {rows:,} rows that both answered, the fine-tuned model is right more often "
            f"than {rival}, by {points}."
        )
    return (
        f"Not for its answers: on the {rows:,} rows that both answered, {rival} is right more often "
        f"than the fine-tuned model, by {points}."
    )


def _money(rival: Contestant, currency: str, training_cost: float | None) -> list[str]:
    if rival.cost_per_1000 is None:
        return []
    unit = f" {currency}" if currency else ""
    told = [f"A thousand answers of {rival.name} cost {rival.cost_per_1000:.2g}{unit}."]
    if training_cost is not None and rival.cost_per_1000 > 0:
        answers = math.ceil(1000 * training_cost / rival.cost_per_1000)
        told.append(
            f"Training cost {training_cost:.2f}{unit}, what {rival.name} takes for {answers:,} answers."
        )
    return told


def _cheaper(placings: Sequence[Placing]) -> list[str]:
    """Which of the models that cost nothing are as good as the fine-tuned one, the first."""
    return [
        f"The {one.contestant.name} is as good as the fine-tuned model on these rows."
        for one in placings[1:]
        if one.contestant.cost_per_1000 == 0 and one.difference.estimate >= 0
    ]
