"""Bootstrap intervals: how much a figure would vary over other rows of the same kind.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DRAWS = 200
LEVEL = 0.95

_AT_ONCE = 4_000_000  # row numbers, 8 bytes each


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval, in the figure's unit; NaN where undefined."""

    estimate: float
    low: float
    high: float


def samples(size: int, draws: int, draw: "Callable[[int], np.ndarray]") -> "Iterator[np.ndarray]":
    """Row numbers of the rows as they are, then of the draws: arrays of shape (samples, size).

    There are so many samples in each that memory doesn't grow with `size`. `draw` gives the next ones,
    as many as it is asked for.
    """
    import numpy as np

    yield np.arange(size)[None, :]
    at_once = max(1, _AT_ONCE // max(1, size))
    for done in range(0, draws, at_once):
        yield draw(min(at_once, draws - done))


def bootstrap(
    statistic: "Callable[[np.ndarray], np.ndarray]",
    size: int,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """The interval of a statistic over resampled rows.

    `statistic` takes row numbers of shape (samples, size) and gives one figure for each sample. Equal
    seeds make equal intervals.
    """
    import numpy as np

    if size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    drawn = samples(size, draws, lambda count: random.integers(0, size, size=(count, size)))
    (estimate,), *parts = map(statistic, drawn)
    estimate, figures = float(estimate), np.concatenate(parts)
    figures = figures[~np.isnan(figures)]
    if not figures.size:
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
