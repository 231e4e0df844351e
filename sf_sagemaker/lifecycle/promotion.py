"""What becomes of the champion now: evaluations, the promotion log and the registered models, joined.

The challenger is compared with the champion on rows that neither was trained on: the test split of
its own dataset, and the periods that were evaluated since. Nothing is remembered between two calls
but the log, so a challenger that stays undecided is looked at again when more rows are known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.champions import (
    Champion,
    IncompatibleChallenger,
    ModelMissing,
    candidate,
    champion_model,
    check_target,
    promote,
    read_champions,
)
from sf_sagemaker.lifecycle.comparison import Comparison, Decision, compare, decide
from sf_sagemaker.lifecycle.decay import DecayLimits, DecayPoint, decay_series
from sf_sagemaker.lifecycle.evaluation import Evaluation, read_evaluations, read_outcomes
from sf_sagemaker.lifecycle.log import EntryTaken
from sf_sagemaker.lifecycle.outcomes import Measure, Outcomes, concatenate
from sf_sagemaker.lifecycle.period_evaluation import UNUSABLE, Predictors
from sf_sagemaker.lifecycle.registry import RegisteredModel, registered_models
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import KeyMissing, Storage
from sf_sagemaker.warehouse.dataset import Manifest
from sf_sagemaker.warehouse.errors import CorruptDataset
from sf_sagemaker.warehouse.export import read_split
from sf_sagemaker.warehouse.manifests import read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

# What else keeps two models from being compared: an entry, a dataset or a target that is not there.
_LOST = (ModelMissing, IncompatibleChallenger, CorruptDataset, KeyMissing)


class Incomparable(SfSagemakerError):
    """A challenger and a champion that can't be compared: one is lost, or can't score the rows.

    `advice` is what a person can do about it.
    """

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True)
class PromotionRules:
    """When a challenger takes over. `margin` is relative: 0.02 lets its error be 2 % higher.

    A champion that would be older than `max_age`, in data time, before another period has ended is due
    to be replaced, as a decayed one is.
    """

    margin: float
    min_rows: int
    confirm: bool
    seed: int = 0
    max_age: timedelta | None = None


@dataclass(frozen=True)
class Consideration:
    """A challenger, and what became of it.

    `comparison` is None where there was none. It is `incomparable` where that alone keeps it out.
    `entry` is what the promotion log gets where it takes over.
    """

    challenger: RegisteredModel
    comparison: Comparison | None
    decision: Decision
    incomparable: bool = False
    entry: Champion | None = None


@dataclass(frozen=True)
class Standing:
    """The champion, and how it came to be. `series` has a point for each period with a champion.

    `as_of` is the newest period that is known: that has rows, be their labels late, or a model.
    `evaluations` are the newest of each period, in order; `models` are the registered ones;
    `considered` is None without a challenger.
    """

    log: Sequence[Champion]
    series: Sequence[DecayPoint]
    as_of: str | None
    evaluations: Sequence[Evaluation]
    models: Sequence[RegisteredModel]
    considered: Consideration | None = None

    @property
    def champion(self) -> Champion | None:
        return self.log[-1] if self.log else None

    @property
    def point(self) -> DecayPoint | None:
        """How the present champion does; None while no period in which it is in force is evaluated."""
        point = self.series[-1] if self.series else None
        return point if point and point.version == len(self.log) else None


def standing(storage: Storage, model: str, predictors: Predictors, limits: DecayLimits) -> Standing:
    """How things stand, without a decision. Raises CorruptEntry and CorruptEvaluation."""
    log = read_champions(storage, model)
    evaluations = read_evaluations(storage, model)
    models = registered_models(storage, model)
    known = [one.partition for one in evaluations if one.rows or one.awaits_labels]
    known += [registered.partition for registered in models]
    series = decay_series(storage, evaluations, log, predictors.scorer.measure, limits)
    return Standing(log, series, max(known, default=None), evaluations, models)


def update_champion(
    storage: Storage,
    model: str,
    cadence: Cadence,
    predictors: Predictors,
    limits: DecayLimits,
    rules: PromotionRules,
    *,
    promoted_at: datetime,
    confirmed: str | None = None,
    run_id: str | None = None,
) -> Standing:
    """Considers the newest challenger, and promotes it where it is to take over.

    `confirmed` names the training job that a person wants as the champion: it takes over whatever the
    comparison says. Where another process promotes meanwhile, all is decided again.

    Raises CorruptEntry and CorruptEvaluation. What a person confirmed and can't be had is an error too:
    ModelMissing where no registered model is of that training job, OlderChallenger,
    IncompatibleChallenger for one of another target, and what loading it raises.
    """
    while True:
        now = standing(storage, model, predictors, limits)
        named = None if confirmed is None else _named(storage, model, now.models, confirmed)
        if named is not None and not _is_in_force(named, now.log):
            predictors.load(named.training_job)
        if now.as_of is None:
            return now
        considered = consider(
            now.log,
            now.models,
            cadence,
            rules,
            partial(_compare, storage, cadence, predictors, rules, now),
            as_of=now.as_of,
            point=now.point,
            promoted_at=promoted_at,
            confirmed=named,
            run_id=run_id,
        )
        if considered is None or considered.entry is None:
            return replace(now, considered=considered)
        try:
            promote(storage, considered.entry, now.models)
        except EntryTaken:
            continue
        return replace(now, log=[*now.log, considered.entry], considered=considered)


def consider(
    log: Sequence[Champion],
    models: Sequence[RegisteredModel],
    cadence: Cadence,
    rules: PromotionRules,
    comparing: Callable[[Champion, RegisteredModel], Comparison],
    *,
    as_of: str,
    point: DecayPoint | None,
    promoted_at: datetime,
    confirmed: RegisteredModel | None = None,
    run_id: str | None = None,
) -> Consideration | None:
    """What becomes of the newest challenger, or of the one that a person has `confirmed`.

    Nothing is read or written but by `comparing`, which may raise Incomparable: then the champion stays.
    `as_of` is the newest known period, `point` how the champion does. None without a challenger.
    """
    champion = log[-1] if log else None
    challenger = candidate(log, models)
    by_hand = confirmed is not None and not _is_in_force(confirmed, log)
    if by_hand:
        challenger = confirmed
    if challenger is None:
        return None
    comparison, incomparable = None, False
    if champion is None:
        decision = Decision("promote", "the first model whose window was full")
        if rules.confirm:
            decision = Decision(
                "confirm", f"{decision.reason}. A person must confirm the promotion"
            )
    else:
        try:
            comparison = comparing(champion, challenger)
        except Incomparable as error:
            reason, incomparable = str(error), not by_hand
            decision = Decision(
                "keep", reason if by_hand else f"{reason}. The champion stays: {error.advice}"
            )
        else:
            due = replacement_due(champion, point, as_of, cadence, rules)
            decision = decide(comparison, due=due, confirm=rules.confirm)
    if by_hand:
        decision = Decision("promote", f"confirmed by a person; {decision.reason}")
    entry = None
    if decision.kind == "promote":
        entry = Champion(
            version=len(log) + 1,
            model=challenger.model,
            partition=challenger.partition,
            training_job=challenger.training_job,
            in_force_from=f"{cadence.period(as_of).end:%Y-%m-%d}",
            promoted_at=promoted_at.isoformat(),
            kind="promotion" if log else "first",
            reason=decision.reason,
            figures=_figures(comparison),
            run_id=run_id,
        )
    return Consideration(challenger, comparison, decision, incomparable, entry)


def compare_out_of_time(
    measure: Measure,
    champion: RegisteredModel,
    challenger: RegisteredModel,
    on_test_split: tuple[Outcomes, Outcomes],
    evaluated: Iterable[tuple[str, Mapping[str, Outcomes]]],
    rules: PromotionRules,
) -> Comparison:
    """Compares both on rows that neither was trained on.

    `on_test_split` are the champion's outcomes and the challenger's on the test split of the
    challenger's dataset; `evaluated` are outcomes by training job, of periods, of which those count
    that are later than both models.
    """
    parts = [on_test_split]
    newer = max(champion.partition, challenger.partition)
    for partition, outcomes in evaluated:
        ours, theirs = outcomes.get(champion.training_job), outcomes.get(challenger.training_job)
        if partition > newer and ours is not None and theirs is not None:
            parts.append((ours, theirs))
    ours, theirs = (concatenate(list(its)) for its in zip(*parts, strict=True))
    return compare(
        measure, ours, theirs, margin=rules.margin, min_rows=rules.min_rows, seed=rules.seed
    )


def replacement_due(
    champion: Champion,
    point: DecayPoint | None,
    as_of: str,
    cadence: Cadence,
    rules: PromotionRules,
) -> str | None:
    """Why a champion is to be replaced, as of the newest period; None where it isn't.

    `point` is how it does, if that is known. The age that counts is the one at the end of the period
    that follows: a champion that stays is in force until then, and whoever was trained because the
    freshness window ran out meets one that has just reached it.
    """
    if point is not None and point.causes:
        return f"the champion has decayed by its {' and '.join(point.causes)}"
    if rules.max_age is None:
        return None
    newest, trained = cadence.period(as_of), cadence.period(champion.partition).end
    age = newest.end - trained
    then = (cadence.following(newest) or newest).end - trained
    if then <= rules.max_age:
        return None
    return (
        f"the champion is {age.days} days old, and {then.days} when the next period has ended, of "
        f"{rules.max_age.days} allowed"
    )


def _named(
    storage: Storage, model: str, models: Sequence[RegisteredModel], training_job: str
) -> RegisteredModel:
    named = [registered for registered in models if registered.training_job == training_job]
    if not named:
        newest = ", ".join(registered.training_job for registered in models[-5:])
        raise ModelMissing(
            f"{model} has no model of the training job {training_job!r}: confirm one that is registered "
            f"under {storage.uri(f'models/{model}')}; the newest are: {newest or 'none'}"
        )
    return named[-1]


def _is_in_force(model: RegisteredModel, log: Sequence[Champion]) -> bool:
    return bool(log) and log[-1].training_job == model.training_job


def _compare(
    storage: Storage,
    cadence: Cadence,
    predictors: Predictors,
    rules: PromotionRules,
    now: Standing,
    champion: Champion,
    challenger: RegisteredModel,
) -> Comparison:
    """Raises Incomparable, and CorruptEvaluation."""
    try:
        predictors.load(challenger.training_job)
    except UNUSABLE as error:
        raise Incomparable(
            f"the challenger {challenger.training_job} can't be used: {error}", "train it again"
        ) from error
    try:
        registered = champion_model(storage, champion, now.models)
        check_target(challenger, registered)
        on_test_split = _on_test_split(storage, cadence, registered, challenger, predictors)
    except (*_LOST, *UNUSABLE) as error:
        raise Incomparable(
            f"{challenger.training_job} can't be compared with version {champion.version} of the "
            f"champions of {champion.model}, {champion.training_job}: {error}",
            f"to replace it all the same, materialize it with `confirm: {challenger.training_job}`",
        ) from error
    newer = max(registered.partition, challenger.partition)
    jobs = (registered.training_job, challenger.training_job)
    evaluated = (
        (evaluation.partition, read_outcomes(storage, evaluation, jobs))
        for evaluation in now.evaluations
        if evaluation.partition > newer
    )
    return compare_out_of_time(
        predictors.scorer.measure, registered, challenger, on_test_split, evaluated, rules
    )


def _on_test_split(
    storage: Storage,
    cadence: Cadence,
    champion: RegisteredModel,
    challenger: RegisteredModel,
    predictors: Predictors,
) -> tuple[Outcomes, Outcomes]:
    """Both on the test split of the challenger's dataset: on all of it where they share the split."""
    manifest = read_manifest(storage, challenger.dataset)
    rows = read_split(storage, manifest, challenger.dataset, "test")
    rows = rows.append_column("split", _repeated("test", rows.num_rows))
    if champion.split != challenger.split:
        # What is the challenger's test split may have been the champion's training rows.
        rows = _after(rows, manifest, cadence.period(champion.partition).end)
    loaded = (predictors.load(champion.training_job), predictors.load(challenger.training_job))
    ours, theirs = (predictor.outcomes(rows) for predictor in loaded)
    return ours, theirs


def _after(rows: "pa.Table", manifest: Manifest, moment: datetime) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    times = rows[manifest.spec.event_time.lower()].cast(pa.timestamp("us"))
    later = pc.call_function("greater_equal", [times, pa.scalar(moment, pa.timestamp("us"))])
    return rows.filter(later)


def _repeated(text: str, count: int) -> "pa.Array":
    import pyarrow as pa

    return pa.array([text] * count, pa.string())


def _figures(comparison: Comparison | None) -> dict[str, float | int | str | bool | None]:
    if comparison is None:
        return {}
    return {
        "metric": comparison.metric,
        "rows": comparison.rows,
        "champion_error": comparison.champion_error,
        "challenger_error": comparison.challenger_error,
        "difference": comparison.difference.estimate,
        "difference_low": comparison.difference.low,
        "difference_high": comparison.difference.high,
        "margin": comparison.margin,
        "verdict": comparison.verdict,
    }
