"""Whether the champion has decayed: evaluations, period by period, joined with the promotion log.

Two signals over the last periods in which the same champion was in force: its bias, and its error
relative to a reference that is refitted for each period, compared with its own first periods out of time.
Error that rises for every model is the calendar's; what rises against the reference is the model's.

A signal that has fired stays so until it lies well below what fired it, so that one which hovers there
doesn't flip. Nothing of that is stored: a state is what the series of periods makes it.
"""

import math
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.lifecycle.champions import Champion, champion_of
from sf_sagemaker.lifecycle.intervals import DRAWS, LEVEL, Interval, samples
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Measure, Outcomes, concatenate, pair
from sf_sagemaker.storage import Storage

if TYPE_CHECKING:
    import numpy as np

    from sf_sagemaker.lifecycle.evaluation import Evaluation

State = Literal["healthy", "decayed", "no verdict"]
Cause = Literal["bias", "error"]

_RELEASE = 0.5  # the share of its limit down to which a bias that has fired stays so
_UNDEFINED = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class DecayLimits:
    """When a champion counts as decayed.

    `rolling` is how many evaluated periods are pooled, and how many of a champion's first ones it is
    compared with; fewer than `min_rows` rows give no verdict. `max_bias` is in the measure's unit of
    bias, `max_relative_excess_error` a share: 0.05 is 5 %.

    `bias_against` "zero" limits bias in both directions. "start" limits how far it has risen since the
    champion's first periods, which is what an excess over a reference needs: a model that was trained
    well lies far below zero, and one that never reached it isn't mended by the same training again.
    """

    rolling: int
    min_rows: int
    max_bias: float
    max_relative_excess_error: float
    bias_against: Literal["zero", "start"] = "zero"


@dataclass(frozen=True)
class DecayPoint:
    """The champion of a period, judged by that period and those before it in which it was in force.

    `rows` are pooled from `periods` periods. `error` and `reference_error` are of these rows; `bias` is
    what its limit limits; `excess` is (error / reference error) over the same ratio in the champion's
    first periods, less 1: NaN while nothing later than those is known. `causes` are those of
    "decayed"; where there is no verdict, those that had fired before and still stand.
    """

    partition: str
    version: int
    training_partition: str
    training_job: str
    rows: int
    periods: int
    error: float
    reference_error: float
    bias: Interval
    excess: Interval
    state: State
    causes: tuple[Cause, ...]
    reason: str


class DecayMonitor:
    """Follows the champions from period to period, in memory.

    `observe` takes the periods in order, each once. A champion's first periods may lie before its
    promotion, so give it the outcomes of every model that may become one.
    """

    def __init__(
        self, measure: Measure, limits: DecayLimits, *, seed: int = 0, draws: int = DRAWS
    ) -> None:
        self._measure = measure
        self._limits = limits
        self._seed = seed
        self._draws = draws
        self._seen: dict[str, Mapping[str, Outcomes]] = {}
        self._version: int | None = None
        self._window: deque[_Paired] = deque(maxlen=limits.rolling)
        self._fired: frozenset[Cause] = frozenset()
        self._start: _Start | None = None

    def observe(
        self, partition: str, champion: Champion | None, outcomes: Mapping[str, Outcomes]
    ) -> DecayPoint | None:
        """The point of a period: `champion` is the one in force, `outcomes` are by predictor.

        None where no champion was in force.
        """
        self._seen[partition] = outcomes
        if champion is None:
            return None
        if champion.version != self._version:
            self._version = champion.version
            self._window.clear()
            self._fired = frozenset()
            self._start = None
        paired = _paired(partition, champion, outcomes)
        self._window.append(paired)
        rows = sum(len(one.champion) for one in self._window)
        stands = ""
        if self._fired:
            causes = " and ".join(sorted(self._fired))
            stands = f"decayed by its {causes} before, and no verdict since to release it: "
        if rows < self._limits.min_rows:
            reason = (
                f"{rows} rows in {len(self._window)} periods since the promotion, and at least "
                f"{self._limits.min_rows} are needed"
            )
            if outcomes and champion.training_job not in outcomes:
                reason += (
                    f"; the evaluation of {partition} has no scores of {champion.training_job}: it "
                    "was registered later, is older than max_age, or could not be scored"
                )
            return self._point(champion, partition, rows, "no verdict", stands + reason)
        if len(_class_counts(self._window)) > 1:
            reason = (
                "the classes that the reference knows changed within the window, so that its rows can't "
                "be pooled"
            )
            return self._point(champion, partition, rows, "no verdict", stands + reason)
        drawn = self._drawn(self._window)
        bias, excess = self._signals(champion, drawn)
        self._fired = frozenset(
            signal.cause for signal in (bias, excess) if signal.fires(signal.cause in self._fired)
        )
        if self._fired:
            state: State = "decayed"
            told = [signal.text for signal in (bias, excess) if signal.cause in self._fired]
        elif undefined := [signal.text for signal in (bias, excess) if signal.undefined]:
            state, told = "no verdict", undefined
        elif not (bias.known or excess.known):
            state = "no verdict"
            told = ["nothing is known yet but the periods that later ones are compared with"]
        else:
            state = "healthy"
            told = [signal.text for signal in (bias, excess) if signal.known]
        return self._point(
            champion, partition, rows, state, "; ".join(told), drawn, bias.interval, excess.interval
        )

    def _signals(self, champion: Champion, drawn: "_Drawn") -> "tuple[_Signal, _Signal]":
        import numpy as np

        limits = self._limits
        start = self._first_periods(champion)
        known = start is not None and any(
            len(one.champion) and one.partition not in start.partitions for one in self._window
        )
        excesses = biases = np.full(self._draws + 1, np.nan)
        if start is not None and known:
            excesses = drawn.ratios / start.drawn.ratios - 1
        if limits.bias_against == "zero":
            biases = drawn.biases
        elif start is not None and known:
            biases = drawn.biases - start.drawn.biases
        return (
            _Signal(
                "bias",
                _interval(biases),
                limits.max_bias,
                known or limits.bias_against == "zero",
                two_sided=limits.bias_against == "zero",
            ),
            _Signal("error", _interval(excesses), limits.max_relative_excess_error, known),
        )

    def _first_periods(self, champion: Champion) -> "_Start | None":
        """The first `rolling` periods after the champion's own, or more until they have min_rows rows.

        None while there are not so many yet.
        """
        if self._start is not None:
            return self._start
        first: list[_Paired] = []
        for partition, outcomes in self._seen.items():
            paired = _paired(partition, champion, outcomes)
            if partition > champion.partition and len(paired.champion):
                first.append(paired)
            rows = sum(len(one.champion) for one in first)
            if len(_class_counts(first)) > 1:
                break  # with other classes than before there is no start to compare with
            if len(first) >= self._limits.rolling and rows >= self._limits.min_rows:
                self._start = _Start(frozenset(one.partition for one in first), self._drawn(first))
                break
        return self._start

    def _drawn(self, periods: "Iterable[_Paired]") -> "_Drawn":
        """Figures of pooled periods: of the rows as they are, then of each draw.

        Rows are drawn within their period, and the same ones wherever a period is pooled: what two
        pools have in common cancels in their difference.
        """
        import numpy as np

        periods = [one for one in periods if len(one.champion)]
        champion = concatenate([one.champion for one in periods])
        reference = concatenate([one.reference for one in periods])
        ends = np.cumsum([len(one.champion) for one in periods])
        generators = [
            np.random.default_rng([self._seed, zlib.crc32(one.partition.encode())])
            for one in periods
        ]

        def draw(count: int) -> "np.ndarray":
            return np.concatenate(
                [
                    generator.integers(begin, end, (count, end - begin))
                    for generator, begin, end in zip(generators, [0, *ends], ends, strict=False)
                ],
                axis=1,
            )

        figures = [
            (
                self._measure.errors(champion, rows),
                self._measure.errors(reference, rows),
                self._measure.biases(champion, reference, rows),
            )
            for rows in samples(len(champion), self._draws, draw)
        ]
        errors, reference_errors, biases = map(np.concatenate, zip(*figures, strict=True))
        ratios = np.full(len(errors), np.nan)
        np.divide(errors, reference_errors, out=ratios, where=reference_errors > 0)
        return _Drawn(errors, reference_errors, ratios, biases)

    def _point(
        self,
        champion: Champion,
        partition: str,
        rows: int,
        state: State,
        reason: str,
        drawn: "_Drawn | None" = None,
        bias: Interval = _UNDEFINED,
        excess: Interval = _UNDEFINED,
    ) -> DecayPoint:
        return DecayPoint(
            partition=partition,
            version=champion.version,
            training_partition=champion.partition,
            training_job=champion.training_job,
            rows=rows,
            periods=len(self._window),
            error=float(drawn.errors[0]) if drawn else math.nan,
            reference_error=float(drawn.reference_errors[0]) if drawn else math.nan,
            bias=bias,
            excess=excess,
            state=state,
            causes=tuple(sorted(self._fired)),
            reason=reason,
        )


def decay_points(
    log: Sequence[Champion],
    periods: Mapping[str, Mapping[str, Outcomes]],
    measure: Measure,
    limits: DecayLimits,
) -> list[DecayPoint]:
    """The points of all periods that had a champion, from outcomes by partition and predictor."""
    monitor = DecayMonitor(measure, limits)
    points = (
        monitor.observe(partition, champion_of(log, partition), periods[partition])
        for partition in sorted(periods)
    )
    return [point for point in points if point is not None]


def decay_series(
    storage: Storage,
    evaluations: "Sequence[Evaluation]",
    log: Sequence[Champion],
    measure: Measure,
    limits: DecayLimits,
) -> list[DecayPoint]:
    """The points of all evaluated periods that had a champion; one evaluation of each period.

    A period that has rows and no label yet is not looked at: it would only push out of the window what
    is known.
    """
    from sf_sagemaker.lifecycle.evaluation import read_outcomes

    periods = {}
    for evaluation in evaluations:
        if evaluation.awaits_labels:
            continue
        jobs = {c.training_job for c in log if c.partition < evaluation.partition}
        if jobs:
            wanted = {*jobs, REFERENCE}
            periods[evaluation.partition] = read_outcomes(storage, evaluation, wanted)
    return decay_points(log, periods, measure, limits)


@dataclass(frozen=True)
class _Paired:
    """The rows of a period that both the champion and the reference have scored."""

    partition: str
    champion: Outcomes
    reference: Outcomes


@dataclass(frozen=True)
class _Drawn:
    """Figures of shape (1 + draws,): the estimate, then the draws."""

    errors: "np.ndarray"
    reference_errors: "np.ndarray"
    ratios: "np.ndarray"
    biases: "np.ndarray"


@dataclass(frozen=True)
class _Start:
    """A champion's first periods."""

    partitions: frozenset[str]
    drawn: _Drawn


@dataclass(frozen=True)
class _Signal:
    """A figure and its limit; `known` is False while there is nothing to compare."""

    cause: Cause
    interval: Interval
    limit: float
    known: bool
    two_sided: bool = False

    @property
    def undefined(self) -> bool:
        return self.known and not math.isfinite(self.interval.low + self.interval.high)

    def fires(self, fired: bool) -> bool:
        """Whether it does now, given whether it did in the period before.

        The interval of a bias is narrow beside a sensible limit, so its estimate fires, where the
        interval leaves out zero; it is released at half the limit. That of a relative error is as wide as
        its limit: an estimate beyond it is most often noise, so the whole interval must lie beyond to
        fire, and the estimate within the limit to be released.
        """
        if not self.known or self.undefined:
            return fired
        low, high, estimate = self.interval.low, self.interval.high, self.interval.estimate
        if self.two_sided and estimate < 0:
            low, high, estimate = -high, -low, -estimate
        if self.cause == "error":
            return estimate > self.limit if fired else low > self.limit
        if fired:
            return estimate > _RELEASE * self.limit
        return estimate > self.limit and low > 0

    @property
    def text(self) -> str:
        if self.undefined:
            return f"{_NAMES[self.cause]} is undefined on these rows"
        estimate, low, high = self.interval.estimate, self.interval.low, self.interval.high
        return (
            f"{_NAMES[self.cause]} {estimate:+.3g} (95 % interval {low:+.3g} to {high:+.3g}), "
            f"limit {self.limit:g}"
        )


_NAMES: Mapping[Cause, str] = {"bias": "bias", "error": "relative excess error"}


def _paired(partition: str, champion: Champion, outcomes: Mapping[str, Outcomes]) -> _Paired:
    """Without rows where the champion or the reference was not scored."""
    reference = outcomes.get(REFERENCE)
    own = outcomes.get(champion.training_job)
    if own is None or reference is None:
        import numpy as np

        nothing = np.array([])
        own = reference = Outcomes(nothing, nothing, nothing, nothing)
    return _Paired(partition, *pair(own, reference))


def _class_counts(periods: "Iterable[_Paired]") -> set[tuple[int, ...]]:
    """How many classes champion and reference know, in each of the periods that have rows."""
    return {
        (*one.champion.predicted.shape[1:], *one.reference.predicted.shape[1:])
        for one in periods
        if len(one.champion)
    }


def _interval(figures: "np.ndarray") -> Interval:
    """The interval of an estimate and its draws; undefined where one half of them or the estimate is."""
    import numpy as np

    drawn = figures[1:][np.isfinite(figures[1:])]
    if not np.isfinite(figures[0]) or 2 * len(drawn) < len(figures) - 1:
        return _UNDEFINED
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(figures[0]), float(low), float(high))
