"""A synthetic stream with a decay that is known exactly: a level that rises from period to period.

The target is a level plus noise; a model predicts the mean of its training window. Its mean absolute
error at any age is that of a normal distribution off by so many periods' rise, so the true crossing
age needs no simulation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sf_sagemaker.lifecycle.decay_curve import PeriodOutcomes
from sf_sagemaker.lifecycle.outcomes import Outcomes
from sf_sagemaker.periods import Cadence

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class DriftingLevel:
    """`rise` of the level by period and standard deviations: of a row's noise, and of a shock that
    all rows of a period share. Models are trained on `window` periods."""

    rise: float
    noise: float = 0.2
    shock: float = 0.0
    window: int = 17
    periods: int = 57
    rows: int = 386

    @property
    def cadence(self) -> Cadence:
        start = datetime(2014, 4, 28)
        return Cadence("week", start, start + timedelta(weeks=self.periods))

    def targets(self, seed: int) -> "np.ndarray":
        """Shape (periods, rows)."""
        import numpy as np

        random = np.random.default_rng(seed)
        shocks = self.shock * random.normal(size=self.periods)
        levels = self.rise * np.arange(self.periods) + shocks
        return levels[:, None] + self.noise * random.normal(size=(self.periods, self.rows))

    def evaluated(self, seed: int, *, oldest: int | None = None) -> Iterator[PeriodOutcomes]:
        """Each period's rows, scored by all earlier models whose window was full."""
        import numpy as np

        targets, cadence = self.targets(seed), self.cadence
        keys = [period.key for period in cadence.between(cadence.start, cadence.start.max)]
        splits = np.full(self.rows, "train")
        for period in range(self.window, self.periods):
            names = np.array([f"{keys[period]}/{row}" for row in range(self.rows)])
            first = max(self.window - 1, period - (oldest or period))
            yield (
                keys[period],
                {
                    keys[training]: Outcomes(
                        names,
                        splits,
                        targets[period],
                        np.full(
                            self.rows, targets[training - self.window + 1 : training + 1].mean()
                        ),
                    )
                    for training in range(first, period)
                },
            )

    def true_error(self, age: float) -> float:
        """The expected mean absolute error of a model of that age, in periods."""
        import numpy as np
        from scipy.stats import norm

        off = self.rise * (age + (self.window - 1) / 2)
        own, shared = self.noise**2, self.shock**2
        spread = np.sqrt(own + shared + own / (self.window * self.rows) + shared / self.window)
        z = off / spread
        return float(spread * (2 * norm.pdf(z) + z * (1 - 2 * norm.cdf(-z))))

    def true_crossing(self, tolerance: float) -> float:
        """The age at which the error exceeds that of age 1 by the tolerance, relative to it."""
        from scipy.optimize import brentq

        target = (1 + tolerance) * self.true_error(1)
        crossing = brentq(lambda age: self.true_error(age) - target, 1, 1000)
        return float(crossing)  # type: ignore[arg-type]
