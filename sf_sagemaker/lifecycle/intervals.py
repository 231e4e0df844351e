"""Bootstrap intervals: how much a figure would vary over other rows of the same kind.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
"""

from collections.abc import Callable
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


def bootstrap(
    statistic: "Callable[[np.ndarray], np.ndarray]",
    size: int,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """The interval of a statistic over resampled rows.

    `statistic` takes row numbers of shape (samples, size) and gives one figure for each sample: it
    is asked once for the rows as they are, and once for all draws. Equal seeds make equal intervals.
    """
    import numpy as np

    if size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    estimate = float(statistic(np.arange(size)[None, :])[0])
    random = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // size)
    figures = np.concatenate(
        [
            statistic(random.integers(0, size, size=(min(at_once, draws - done), size)))
            for done in range(0, draws, at_once)
        ]
    )
    figures = figures[~np.isnan(figures)]
    if not figures.size:
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
