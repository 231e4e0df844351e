"""Is the shipped policy worth it? Weekly streams replayed under it, and under fixed schedules.

A replay has no clock: the end of the newest week is now, and a model is as old as its data. What is
decided, the library decides; only what it does with stored files is done here in memory.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml

from benchmarks.weekly_streams import (
    ScoredStream,
    build_features,
    house_sales,
    shipped_model,
    synthetic_sales,
)
from sf_sagemaker.components.retraining import retraining_policy
from sf_sagemaker.components.xgboost_model import XGBoostModel
from sf_sagemaker.lifecycle import retraining
from sf_sagemaker.lifecycle.champions import Champion, champion_of
from sf_sagemaker.lifecycle.comparison import Comparison, Decision
from sf_sagemaker.lifecycle.decay import DecayMonitor, DecayPoint
from sf_sagemaker.lifecycle.intervals import LEVEL, Interval, bootstrap
from sf_sagemaker.lifecycle.measures import NumericMeasure
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Outcomes, concatenate
from sf_sagemaker.lifecycle.promotion import compare_out_of_time, consider
from sf_sagemaker.lifecycle.registry import RegisteredModel

_SHIPPED = "shipped"
_STEADY = "synthetic, no drift"
_SCHEDULES = {
    "never": None, "every week": 1, "every 4 weeks": 4, "every 8 weeks": 8, "every 12 weeks": 12
}  # fmt: skip
_LAST_WEEKS = 13
_LEAST_BENEFIT, _MOST_TRAININGS = 0.75, 0.25
_SEEDS = 10
# Where drift is gradual, the policies lie close together.
_SEEDS_OF = {"synthetic, linear": 30, "synthetic, relation": 30}
_PROCESSES = 2
_STREAMS: Mapping[str, Callable[[Path, XGBoostModel, int], ScoredStream]] = {
    "house sales": house_sales,
    _STEADY: lambda _, model, seed: synthetic_sales(model, "none", 0, seed),
    "synthetic, linear": lambda _, model, seed: synthetic_sales(model, "linear", 0.0025, seed),
    "synthetic, abrupt": lambda _, model, seed: synthetic_sales(model, "abrupt", 0.12, seed),
    "synthetic, relation": lambda _, model, seed: synthetic_sales(model, "relation", 0.008, seed),
}


@dataclass(frozen=True)
class Served:
    """What a policy did: the model in force by week, as the week it was trained for, and trainings.

    The first model is every policy's own, and isn't counted.
    """

    models: Mapping[int, int]
    trainings: int


@dataclass(frozen=True)
class Figures:
    """What a policy came to on one path; errors in percent."""

    error: float
    late_error: float
    trainings: int


def schedule(stream: ScoredStream, every: int | None) -> Served:
    """Trains every so many weeks, and puts each new model in place."""
    models, newest, trainings = {}, stream.first, 0
    for week in range(stream.first + 1, stream.last + 1):
        models[week] = newest
        if every and week < stream.last and (week - stream.first) % every == 0:
            newest, trainings = week, trainings + 1
    return Served(models, trainings)


class ShippedPolicy:
    """What sensors and assets do week by week: decay check, promotion, retraining."""

    def __init__(self, stream: ScoredStream, model: XGBoostModel) -> None:
        cadence = stream.cadence
        self._stream = stream
        self._measure = measure_of(model)
        self._max_age = model.evaluation.oldest(cadence)
        window = model.freshness.window() if model.freshness else None
        self._cadence = cadence
        self._rules = model.promotion.rules(model.sample.seed, window)
        self._retraining = retraining_policy(
            cadence, model.sample.window, model.freshness, model.retraining
        )
        self._monitor = DecayMonitor(self._measure, model.decay.limits(cadence, text=False))
        periods = cadence.between(cadence.start, cadence.start + timedelta(weeks=stream.last + 2))
        self._keys = [period.key for period in periods]
        self._log: list[Champion] = []
        self._registered: list[RegisteredModel] = []
        self._evaluations: dict[str, Mapping[str, Outcomes]] = {}
        self._point: DecayPoint | None = None
        self.decisions: list[tuple[str, Comparison | None, Decision]] = []

    def run(self) -> Served:
        """Replays the whole stream."""
        models, trainings = {}, 0
        self._train(self._stream.first)
        for week in range(self._stream.first + 1, self._stream.last + 1):
            champion = champion_of(self._log, self._keys[week])
            assert champion is not None, "the first model takes over at once"
            models[week] = self._keys.index(champion.training_job)
            evaluated = self._evaluations[self._keys[week]] = self._evaluated(week)
            self._point = self._monitor.observe(self._keys[week], champion, evaluated)
            self._consider(week)
            if week < self._stream.last and self._is_due(week):
                self._train(week)
                trainings += 1
        return Served(models, trainings)

    def _train(self, week: int) -> None:
        self._registered.append(_registered(self._keys[week]))
        self._consider(week)

    def _is_due(self, week: int) -> bool:
        """Asked the moment after the week has landed, when its evaluation and checks are done."""
        cadence, newest = self._stream.cadence, self._registered[-1].partition
        trained = cadence.period(newest).end.replace(tzinfo=UTC)
        now = cadence.period(self._keys[week]).end.replace(tzinfo=UTC) + timedelta(minutes=1)
        decayed = self._point is not None and bool(self._point.causes)
        state = retraining.ModelState(
            now=now,
            trained=retraining.Training(newest, trained, len(self._registered)),
            landed=self._keys[week],
            decay_failed=now if decayed else None,
        )
        return retraining.decide(state, self._retraining, "sensor").partition is not None

    def _evaluated(self, week: int) -> dict[str, Outcomes]:
        """What the evaluation of a week knows: models up to max_age, and the reference."""
        chosen = self._stream.weeks == week
        numbers = [self._keys.index(model.partition) for model in self._registered]
        outcomes = {
            self._keys[number]: self._stream.outcomes(number, chosen)
            for number in numbers
            if 0 < week - number <= self._max_age
        }
        return {**outcomes, REFERENCE: self._stream.outcomes(REFERENCE, chosen)}

    def _consider(self, week: int) -> None:
        """As `update_champion` does, after the evaluation or the training of a week."""
        considered = consider(
            self._log,
            self._registered,
            self._cadence,
            self._rules,
            self._compare,
            as_of=self._keys[week],
            point=self._point,
            promoted_at=self._cadence.period(self._keys[week]).end,
        )
        if considered is None:
            return
        self.decisions.append((self._keys[week], considered.comparison, considered.decision))
        if considered.entry is not None:
            self._log.append(considered.entry)
            self._point = None  # of the new champion nothing is known yet

    def _compare(self, champion: Champion, challenger: RegisteredModel) -> Comparison:
        stream = self._stream
        ours, theirs = (self._keys.index(model.training_job) for model in (champion, challenger))
        window = (stream.weeks > theirs - stream.window) & (stream.weeks <= theirs)
        test = window & (stream.splits == "test")
        on_test_split = stream.outcomes(ours, test), stream.outcomes(theirs, test)
        [registered] = [
            one for one in self._registered if one.training_job == champion.training_job
        ]
        return compare_out_of_time(
            self._measure,
            registered,
            challenger,
            on_test_split,
            self._evaluations.items(),
            self._rules,
        )


def _registered(key: str) -> RegisteredModel:
    return RegisteredModel(
        model="replayed", partition=key, training_job=key, artifact_uri="", trained_at=key,
        dataset="", dataset_fingerprint="", spec_digest="", target="price", target_kind="positive",
        split="", features=(), warm_up=False,
    )  # fmt: skip


def measure_of(model: XGBoostModel) -> NumericMeasure:
    metric = model.evaluation.metric or "median_absolute_percentage_error"
    return NumericMeasure("regression", metric, positive=True)


def figures(stream: ScoredStream, served: Served, measure: NumericMeasure) -> Figures:
    """The error over all rows that were priced while the policy ran, and over the last weeks'."""
    parts = [
        stream.outcomes(number, stream.weeks == week) for week, number in served.models.items()
    ]

    def error(parts: Sequence[Outcomes]) -> float:
        rows = concatenate(list(parts))
        return float(measure.errors(rows, np.arange(len(rows))[None, :])[0])

    return Figures(error(parts), error(parts[-_LAST_WEEKS:]), served.trainings)


def replay(
    name: str, warehouse: Path, changes: Mapping[str, object], seed: int
) -> dict[str, Figures]:
    """All policies on one path."""
    model = shipped_model(changes)
    stream = _STREAMS[name](warehouse, model, seed)
    served = {_SHIPPED: ShippedPolicy(stream, model).run()}
    served |= {policy: schedule(stream, every) for policy, every in _SCHEDULES.items()}
    return {policy: figures(stream, of, measure_of(model)) for policy, of in served.items()}


@dataclass(frozen=True)
class Verdict:
    """How a stream's policies compare, on the means over its paths.

    `benefit` is the share of weekly retraining's benefit over never that the shipped policy reaches,
    with its interval over the paths; where nothing `drifts` there is none to reach. `leads` are by how
    much a schedule with as many trainings or fewer errs less than the shipped policy, in percent: only
    those of a positive mean, with the interval of the differences on the same path.
    """

    benefit: Interval
    drifts: bool
    trainings: float
    weekly_trainings: float
    leads: Mapping[str, Interval]

    @property
    def ahead(self) -> tuple[str, ...]:
        """The schedules whose lead is more than chance: of equal policies, one is always in front."""
        return tuple(name for name, lead in self.leads.items() if not lead.low <= 0)

    @property
    def holds(self) -> bool:
        """The floor."""
        few = self.trainings <= _MOST_TRAININGS * self.weekly_trainings
        enough = self.benefit.estimate >= _LEAST_BENEFIT and not self.ahead
        return few and (enough or not self.drifts)


def judge(paths: Sequence[Mapping[str, Figures]], *, drifts: bool = True) -> Verdict:
    errors = {name: np.array([path[name].error for path in paths]) for name in paths[0]}
    trainings = {name: np.mean([path[name].trainings for path in paths]) for name in paths[0]}
    possible, reached = (errors["never"] - errors[policy] for policy in ("every week", _SHIPPED))

    def share(samples: np.ndarray) -> np.ndarray:
        return reached[samples].mean(axis=1) / possible[samples].mean(axis=1)

    leads = {
        name: _mean(errors[_SHIPPED] - errors[name])
        for name in _SCHEDULES
        if trainings[name] <= trainings[_SHIPPED]
    }
    return Verdict(
        benefit=bootstrap(share, len(paths), seed=0, draws=2000),
        drifts=drifts,
        trainings=float(trainings[_SHIPPED]),
        weekly_trainings=float(trainings["every week"]),
        leads={name: lead for name, lead in leads.items() if lead.estimate > 0},
    )


def _mean(values: np.ndarray) -> Interval:
    """With the interval of a mean (Student's t)."""
    from scipy.stats import t

    quantile = float(t.ppf((1 + LEVEL) / 2, len(values) - 1))
    mean, half = float(values.mean()), quantile * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def table(paths: Sequence[Mapping[str, Figures]]) -> str:
    """Markdown: the mean over the paths, and the half width of its interval.

    Policies are compared on the same path, so that the intervals of the last columns are of differences.
    """

    def cell(values: Sequence[float], digits: int) -> str:
        mean = _mean(np.array(values, dtype=float))
        return f"{mean.estimate:.{digits}f} ± {mean.high - mean.estimate:.{digits}f}"

    lines = [
        f"| policy | trainings | error, % | last {_LAST_WEEKS} weeks | less than never "
        "| more than shipped |",
        "|---|---|---|---|---|---|",
    ]
    for name in paths[0]:
        of = [path[name] for path in paths]
        gains = [path["never"].error - path[name].error for path in paths]
        losses = [path[name].error - path[_SHIPPED].error for path in paths]
        cells = [
            cell([one.trainings for one in of], 1),
            cell([one.error for one in of], 2),
            cell([one.late_error for one in of], 2),
            cell(gains, 3),
            "" if name == _SHIPPED else cell(losses, 3),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Prints a table for each stream; 1 where the shipped policy is below its floor."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, help="of each stream; 10 or 30 unless given")
    parser.add_argument("--stream", action="append", choices=list(_STREAMS), help="one of them")
    parser.add_argument(
        "--set", action="append", default=[], metavar="decay.max_bias=0.02",
        help="an attribute of house_prices to try instead of what is shipped",
    )  # fmt: skip
    arguments = parser.parse_args()
    changes = {
        name: yaml.safe_load(value) for name, value in (one.split("=") for one in arguments.set)
    }
    held = True
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool,
    ):
        warehouse = Path(folder) / "warehouse.duckdb"
        build_features(warehouse, shipped_model(changes).partitions.cadence())
        for name in arguments.stream or _STREAMS:
            one = partial(replay, name, warehouse, changes)
            seeds = arguments.seeds or _SEEDS_OF.get(name, _SEEDS)
            paths = list(pool.map(one, range(1, seeds + 1)))
            verdict = judge(paths, drifts=name != _STEADY)
            held &= verdict.holds
            print(
                f"\n**{name}**, {len(paths)} seeds\n\n{table(paths)}\n\n{_told(verdict)}",
                flush=True,
            )
    return 0 if held else 1


def _lead_told(lead: tuple[str, Interval]) -> str:
    name, by = lead
    return f"{name} by {by.estimate:.3f} (95 % interval {by.low:.3f} to {by.high:.3f})"


def _told(verdict: Verdict) -> str:
    share = verdict.trainings / verdict.weekly_trainings
    benefit = verdict.benefit
    told = f"The shipped policy trains {share:.0%} as often as every week"
    if not verdict.drifts:
        told += ", which is of no use here"
    else:
        told += (
            f" and reaches {benefit.estimate:.0%} of the benefit (95 % interval {benefit.low:.0%} to "
            f"{benefit.high:.0%}); with as many trainings or fewer, errs less on the mean: "
            f"{', '.join(map(_lead_told, verdict.leads.items())) or 'none'}; "
            f"by more than chance: {', '.join(verdict.ahead) or 'none'}"
        )
    return f"{told}. The floor {'holds' if verdict.holds else 'does not hold'}."


if __name__ == "__main__":
    sys.exit(main())
