"""How old a model may grow: its excess error over the freshest model on the same rows, by age.

Error that rises for every model is the calendar's; what an old model has in excess of a fresh one on
the same rows is its own. Ages are counted in periods: the model of W-1 has age 1 on the rows of W.
`measure_ages` and `decay_curve` work in memory; `read_period_outcomes` feeds them from storage.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.evaluation import Evaluation, read_outcomes
from sf_sagemaker.lifecycle.intervals import DRAWS, LEVEL, Interval, samples
from sf_sagemaker.lifecycle.outcomes import Measure, Outcomes, pair
from sf_sagemaker.lifecycle.registry import RegisteredModel
from sf_sagemaker.periods import Cadence, Every
from sf_sagemaker.storage import Storage

if TYPE_CHECKING:
    import numpy as np

FRESH = 1  # the age of the model that the others are compared with

_DAYS: Mapping[Every, float] = {
    "day": 1,
    "week": 7,
    "month": 365.25 / 12,
    "quarter": 365.25 / 4,
    "year": 365.25,
}

PeriodOutcomes = tuple[str, Mapping[str, Outcomes]]
"""A period that was evaluated, and the outcomes on its rows by the partition of the model."""


class NotOutOfTime(SfSagemakerError):
    """A model that was evaluated on a period that it was trained on, or that ends before it."""


@dataclass(frozen=True)
class AgeMatrix:
    """Errors by age of the model (from 1 on) and by period evaluated, in the calendar's order.

    `errors` and `fresh_errors` have the shape (ages, periods, 1 + draws): first the error of the
    rows as they are, then of rows resampled within the period, the same ones for both. They are of
    the rows that both models have, `rows` of them, shape (ages, periods). NaN where there is no
    model, no row or no error; `fresh_errors` also where the period has no model of age 1.
    """

    metric: str
    periods: tuple[str, ...]
    trainings: "np.ndarray"  # (ages, periods), the models' partitions; "" where there is none
    errors: "np.ndarray"
    fresh_errors: "np.ndarray"
    rows: "np.ndarray"

    def by_training(self) -> "tuple[tuple[str, ...], np.ndarray]":
        """The partitions of the models, and their errors: shape (models, periods), NaN for none."""
        import numpy as np

        trainings = sorted(set(self.trainings[self.trainings != ""].tolist()))
        position = {training: number for number, training in enumerate(trainings)}
        matrix = np.full((len(trainings), len(self.periods)), np.nan)
        for (age, period), training in np.ndenumerate(self.trainings):
            if training:
                matrix[position[training], period] = self.errors[age, period, 0]
        return tuple(trainings), matrix


@dataclass(frozen=True)
class AgePoint:
    """Models of one age, in all periods that have both them and the freshest model.

    Errors are means over the periods, weighted by rows. `excess` is relative: 0.05 is an error 5 %
    above the freshest model's. `fitted` is the excess of the curve that doesn't fall with age.
    """

    age: int
    periods: int
    rows: int
    error: float
    fresh_error: float
    excess: Interval
    fitted: float


@dataclass(frozen=True)
class Crossing:
    """The age, in periods and fractions of them, at which the excess reaches the tolerance.

    None where it isn't reached within the data: nothing is extrapolated.
    """

    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class DecayCurve:
    """Excess error by age, and the age at which it crosses the tolerance.

    What doesn't count is named: `thin_ages` have too few periods or rows, `thin_periods` too few rows,
    and `periods_without_fresh` had no model of age 1 to compare with.
    """

    metric: str
    tolerance: float
    points: tuple[AgePoint, ...]
    crossing: Crossing
    thin_ages: tuple[int, ...]
    thin_periods: tuple[str, ...]
    periods_without_fresh: tuple[str, ...]

    @property
    def oldest(self) -> int | None:
        """The greatest age that the data speak of."""
        return self.points[-1].age if self.points else None


@dataclass(frozen=True)
class FreshnessWindow:
    """How long a model may be in force before the next one is due.

    `known` False: even the lower bound of the crossing age lies beyond the data, so that the window
    is the longest of which the data can tell that it is short enough.
    """

    periods: float
    days: int
    known: bool
    reason: str

    def verdict(self, configured: timedelta) -> Literal["within", "longer", "unknown"]:
        """Whether a configured window is short enough; unknown where the data don't reach so far."""
        if configured <= timedelta(days=self.days):
            return "within"
        return "longer" if self.known else "unknown"


def measure_ages(
    measure: Measure,
    evaluated: Iterable[PeriodOutcomes],
    cadence: Cadence,
    *,
    seed: int,
    draws: int = DRAWS,
) -> AgeMatrix:
    """The errors of all models on the rows of all periods, each period given once.

    Raises NotOutOfTime, and InvalidPeriod for partitions that the cadence doesn't have.
    """
    import numpy as np

    columns: dict[str, dict[int, tuple[str, int, np.ndarray, np.ndarray]]] = {}
    for partition, outcomes in evaluated:
        ages = _ages(cadence, partition, outcomes)
        fresh = next((of for training, of in outcomes.items() if ages[training] == FRESH), None)
        column = columns[partition] = {}
        for training in sorted(outcomes, key=lambda training: ages[training]):
            aged = outcomes[training]
            aged, other = (aged, None) if fresh is None else _paired(aged, fresh)
            size = len(aged)
            if not size:
                continue
            # Equal seeds make equal samples of a period's rows, whatever the age.
            of_period = [seed, cadence.period(partition).start.toordinal()]
            errors = _errors(measure, aged, draws, of_period)
            if other is not None and other is fresh:
                # Those of age 1, which come first, unless rows had to be left out to pair.
                fresh_errors = column[FRESH][2] if FRESH in column else errors
            else:
                fresh_errors = _errors(measure, other, draws, of_period)
            column[ages[training]] = (training, size, errors, fresh_errors)

    periods = tuple(sorted(columns))
    shape = (max((age for column in columns.values() for age in column), default=0), len(periods))
    trainings = np.full(shape, "", dtype="U10")
    rows = np.zeros(shape, dtype=int)
    errors, fresh_errors = (np.full((*shape, 1 + draws), np.nan) for _ in range(2))
    for number, partition in enumerate(periods):
        for age, values in columns[partition].items():
            cell = age - 1, number
            trainings[cell], rows[cell], errors[cell], fresh_errors[cell] = values
    return AgeMatrix(measure.metric, periods, trainings, errors, fresh_errors, rows)


def decay_curve(
    matrix: AgeMatrix,
    *,
    tolerance: float,
    seed: int,
    min_periods: int = 4,
    min_rows: int = 500,
    min_period_rows: int = 30,
    draws: int = 2 * DRAWS,
    level: float = LEVEL,
) -> DecayCurve:
    """The curve, its intervals, and where it crosses a tolerated relative excess error.

    Periods with fewer than `min_period_rows` rows don't count, and neither do ages with fewer than
    `min_periods` of the others or `min_rows` rows in all of them.

    Rows of a period are alike, and so are models of neighbouring periods, which share most of their
    training rows: intervals come from resampling runs of neighbouring periods (Künsch's block
    bootstrap, with blocks of the cube root of their number), and rows within each. Decay doesn't
    fall with age in expectation, so the crossing is read off the isotonic fit of each resampling,
    linear between ages.
    """
    import numpy as np

    scored = ~np.isnan(matrix.errors[:, :, 0])
    thick = matrix.rows.max(axis=0, initial=0) >= min_period_rows
    fresh_there = ~np.isnan(matrix.fresh_errors[:, :, 0])
    usable = scored & fresh_there & thick
    compared = np.flatnonzero(usable.any(axis=0))
    rows = np.where(usable, matrix.rows, 0)
    enough = (usable.sum(axis=1) >= min_periods) & (rows.sum(axis=1) >= max(min_rows, 1))
    chosen = np.flatnonzero(enough) if enough[:1].any() else np.array([], dtype=int)
    sums = _Sums(
        matrix.errors[np.ix_(chosen, compared)],
        matrix.fresh_errors[np.ix_(chosen, compared)],
        rows[np.ix_(chosen, compared)],
    )
    aged, fresh = sums.of(np.arange(len(compared)), np.zeros(len(compared), dtype=int))
    excess, weights = aged / fresh - 1, sums.rows.sum(axis=1)
    fitted = _isotonic(excess, weights)

    random = np.random.default_rng(seed)
    row_draws = np.arange(min(1, matrix.errors.shape[2] - 1), matrix.errors.shape[2])
    drawn = np.full((draws, len(chosen)), np.nan)
    crossings = np.full(draws, np.inf)
    if len(chosen):
        for draw in range(draws):
            resampled = _blocks(random, len(compared))
            within = random.choice(row_draws, len(compared))
            numerator, denominator = sums.of(resampled, within)
            drawn[draw] = numerator / denominator - 1
            crossings[draw] = _crossing(chosen + 1, _isotonic(drawn[draw], weights), tolerance)

    def names(chosen: np.ndarray) -> tuple[str, ...]:
        return tuple(name for name, wanted in zip(matrix.periods, chosen, strict=True) if wanted)

    tails = (1 - level) / 2, (1 + level) / 2
    points = tuple(
        AgePoint(
            age=int(age) + 1,
            periods=int(usable[age].sum()),
            rows=int(weights[number]),
            error=float(aged[number] / weights[number]),
            fresh_error=float(fresh[number] / weights[number]),
            excess=_interval(float(excess[number]), drawn[:, number], tails),
            fitted=float(fitted[number]),
        )
        for number, age in enumerate(chosen)
    )
    # Infinite crossings can't be averaged with finite ones, so quantiles are values that occur.
    low = np.quantile(crossings, tails[0], method="lower")
    high = np.quantile(crossings, tails[1], method="higher")
    return DecayCurve(
        metric=matrix.metric,
        tolerance=tolerance,
        points=points,
        crossing=Crossing(
            _finite(_crossing(chosen + 1, fitted, tolerance)), _finite(low), _finite(high)
        ),
        thin_ages=tuple(int(n) + 1 for n in np.flatnonzero(usable.any(axis=1)) if n not in chosen),
        thin_periods=names(~thick),
        periods_without_fresh=names(thick & ~fresh_there.any(axis=0)),
    )


def freshness_window(
    curve: DecayCurve, cadence: Cadence, *, label_delay: int
) -> FreshnessWindow | None:
    """The recommended window: lower bound of the crossing age, less one period and the label delay.

    One period, since a model waits for the end of its period, and `label_delay` days for labels.
    Never negative: 0 means that a model is due in every period. None without a curve.
    """
    if curve.oldest is None:
        return None
    length = _DAYS[cadence.every]
    known = curve.crossing.low is not None
    age = curve.crossing.low if curve.crossing.low is not None else float(curve.oldest)
    periods = max(0.0, age - 1 - label_delay / length)
    days = math.floor(periods * length + 1e-9)
    what = f"an excess of {100 * curve.tolerance:g} % in {curve.metric.replace('_', ' ')}"
    less = f"less one {cadence.every} and {label_delay} days of label delay"
    unit = f"{cadence.every}s"
    if known:
        reason = f"{what} may be reached at an age of {age:.1f} {unit}: {less}, {days} days"
    else:
        reason = (
            f"{what} is not reached within the data, which end at an age of {age:g} {unit}: "
            f"{less}, {days} days are safe, and more can't be told"
        )
    return FreshnessWindow(periods, days, known, reason)


def read_period_outcomes(
    storage: Storage, evaluations: Iterable[Evaluation], models: Iterable[RegisteredModel]
) -> Iterator[PeriodOutcomes]:
    """The outcomes of each evaluated period, read when it is asked for.

    `models` are the newest of their partitions. Of a partition whose newest model an evaluation
    hasn't scored there is nothing, and neither of models whose window wasn't full (warm-up).
    """
    partitions = {model.training_job: model.partition for model in models if not model.warm_up}
    for evaluation in evaluations:
        scored = [score.predictor for score in evaluation.scores if score.predictor in partitions]
        outcomes = read_outcomes(storage, evaluation, scored) if scored else {}
        yield evaluation.partition, {partitions[job]: of for job, of in outcomes.items()}


@dataclass(frozen=True)
class _Sums:
    """Errors weighted by rows, to be added up over resampled periods. Shapes as in AgeMatrix."""

    errors: "np.ndarray"
    fresh_errors: "np.ndarray"
    rows: "np.ndarray"

    def of(self, periods: "np.ndarray", draws: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """The sums of both by age over some periods, of one draw of rows for each of them.

        NaN where these periods have none of that age.
        """
        import numpy as np

        aged, fresh = self.errors[:, periods, draws], self.fresh_errors[:, periods, draws]
        undefined = np.isnan(aged) | np.isnan(fresh)
        weights = np.where(undefined, 0, self.rows[:, periods])
        total = np.where(weights.sum(axis=1) > 0, 1.0, np.nan)
        weighted = (np.where(undefined, 0, of) * weights for of in (aged, fresh))
        aged_sum, fresh_sum = (of.sum(axis=1) * total for of in weighted)
        return aged_sum, np.where(fresh_sum > 0, fresh_sum, np.nan)


def _ages(cadence: Cadence, partition: str, trainings: Iterable[str]) -> dict[str, int]:
    evaluated = cadence.period(partition)
    starts = {training: cadence.period(training).start for training in trainings}
    for training, start in starts.items():
        if start >= evaluated.start:
            raise NotOutOfTime(
                f"the model of {training} was evaluated on {partition}: the decay curve needs models "
                "of earlier periods only"
            )
    oldest = min(starts.values(), default=evaluated.start)
    keys = [period.key for period in cadence.between(oldest, evaluated.start)]
    return {key: len(keys) - number for number, key in enumerate(keys)}


def _paired(first: Outcomes, second: Outcomes) -> tuple[Outcomes, Outcomes]:
    import numpy as np

    if np.array_equal(first.rows, second.rows):
        return first, second
    return pair(first, second)


def _errors(
    measure: Measure, outcomes: Outcomes | None, draws: int, seed: list[int]
) -> "np.ndarray":
    """The error of the rows as they are, then of as many draws of them; NaN without outcomes."""
    import numpy as np

    if outcomes is None:
        return np.full(1 + draws, np.nan)
    size, random = len(outcomes), np.random.default_rng(seed)
    drawn = samples(size, draws, lambda count: random.integers(0, size, (count, size)))
    return np.concatenate([measure.errors(outcomes, rows) for rows in drawn])


def _blocks(random: "np.random.Generator", size: int) -> "np.ndarray":
    """Numbers below `size`, as many: runs of neighbours, the last one being next to the first."""
    import numpy as np

    length = max(1, math.ceil(size ** (1 / 3)))
    starts = random.integers(0, size, math.ceil(size / length))
    return ((starts[:, None] + np.arange(length)) % size).ravel()[:size]


def _isotonic(excess: "np.ndarray", weights: "np.ndarray") -> "np.ndarray":
    """The nearest excess that begins at 0 and doesn't fall; NaN stays NaN."""
    import numpy as np
    from sklearn.isotonic import isotonic_regression

    defined = ~np.isnan(excess)
    fitted = np.full(len(excess), np.nan)
    if defined.any():
        fit = isotonic_regression(
            excess[defined], sample_weight=weights[defined].astype(float), y_min=0
        )
        fitted[defined] = fit
    return fitted


def _crossing(ages: "np.ndarray", fitted: "np.ndarray", tolerance: float) -> float:
    """The age at which a curve that doesn't fall reaches the tolerance; infinite where it doesn't."""
    import numpy as np

    ages, fitted = ages[~np.isnan(fitted)], fitted[~np.isnan(fitted)]
    above = np.flatnonzero(fitted >= tolerance)
    if not len(above):
        return math.inf
    after = int(above[0])
    if after == 0:
        return float(ages[0])
    rise = (tolerance - fitted[after - 1]) / (fitted[after] - fitted[after - 1])
    return float(ages[after - 1] + rise * (ages[after] - ages[after - 1]))


def _interval(estimate: float, drawn: "np.ndarray", tails: tuple[float, float]) -> Interval:
    import numpy as np

    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(drawn, tails)
    return Interval(estimate, float(low), float(high))


def _finite(age: float) -> float | None:
    return float(age) if math.isfinite(age) else None
