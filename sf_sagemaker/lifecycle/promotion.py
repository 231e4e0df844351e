"""What becomes of the champion now: evaluations, the promotion log and the registered models, joined.

The challenger is compared with the champion on rows that neither was trained on: the test split of
its own dataset, and the periods that were evaluated since. Nothing is remembered between two calls
but the log, so a challenger that stays undecided is looked at again when more rows are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.champions import (
    Champion,
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
from sf_sagemaker.lifecycle.outcomes import Outcomes, concatenate
from sf_sagemaker.lifecycle.period_evaluation import UNUSABLE, Predictors
from sf_sagemaker.lifecycle.registry import RegisteredModel, registered_models
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import Manifest
from sf_sagemaker.warehouse.export import read_split
from sf_sagemaker.warehouse.manifests import read_manifest

if TYPE_CHECKING:
    import pyarrow as pa


class ChampionUnusable(SfSagemakerError):
    """A champion that a challenger can't be compared with: it is lost, or can't score the rows."""


@dataclass(frozen=True)
class PromotionRules:
    """When a challenger takes over. `margin` is relative: 0.02 lets its error be 2 % higher.

    A champion that is older than `max_age`, in data time, is due to be replaced, as a decayed one is.
    """

    margin: float
    min_rows: int
    confirm: bool
    seed: int = 0
    max_age: timedelta | None = None


@dataclass(frozen=True)
class Consideration:
    """A challenger, and what became of it; the first model is compared with nothing."""

    challenger: RegisteredModel
    comparison: Comparison | None
    decision: Decision


@dataclass(frozen=True)
class Standing:
    """The champion, and how it came to be. `series` has a point for each period with a champion.

    `as_of` is the newest period of which labels or a model are known; `evaluations` are the newest of
    each period, in order; `considered` is None without a challenger.
    """

    log: Sequence[Champion]
    series: Sequence[DecayPoint]
    as_of: str | None
    evaluations: Sequence[Evaluation]
    considered: Consideration | None = None

    @property
    def champion(self) -> Champion | None:
        return self.log[-1] if self.log else None

    @property
    def landed(self) -> str | None:
        """The newest period that was evaluated, be its labels late."""
        return self.evaluations[-1].partition if self.evaluations else None

    @property
    def point(self) -> DecayPoint | None:
        """How the present champion does; None while no period in which it is in force is evaluated."""
        point = self.series[-1] if self.series else None
        return point if point and point.version == len(self.log) else None


def standing(storage: Storage, model: str, predictors: Predictors, limits: DecayLimits) -> Standing:
    """How things stand, without a decision. Raises CorruptEntry and CorruptEvaluation."""
    log = read_champions(storage, model)
    evaluations = read_evaluations(storage, model)
    known = [evaluation.partition for evaluation in evaluations if evaluation.rows]
    known += [registered.partition for registered in registered_models(storage, model)]
    series = decay_series(storage, evaluations, log, predictors.scorer.measure, limits)
    return Standing(log, series, max(known, default=None), evaluations)


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

    Raises CorruptEntry, CorruptEvaluation, ModelMissing where `confirmed` is no registered model's,
    IncompatibleChallenger for a challenger of another target, ChampionUnusable, OlderChallenger for one
    that a person confirmed, and what loading the challenger raises.
    """
    while True:
        now = standing(storage, model, predictors, limits)
        challenger = _challenger(storage, model, now.log, confirmed)
        if challenger is None or now.as_of is None:
            return now
        by_hand = challenger.training_job == confirmed
        comparison, decision = None, Decision("promote", "the first model whose window was full")
        if now.champion is not None:
            try:
                comparison = _compare(
                    storage, cadence, now.champion, challenger, now.evaluations, predictors, rules
                )
            except ChampionUnusable as error:
                if not by_hand:
                    raise
                decision = Decision("promote", str(error.__cause__))
            else:
                due = replacement_due(now.champion, now.point, now.as_of, cadence, rules)
                decision = decide(comparison, due=due, confirm=rules.confirm)
        elif rules.confirm:
            decision = Decision(
                "confirm", f"{decision.reason}. A person must confirm the promotion"
            )
        if by_hand:
            decision = Decision("promote", f"confirmed by a person; {decision.reason}")
        considered = Consideration(challenger, comparison, decision)
        if decision.kind != "promote":
            return replace(now, considered=considered)
        entry = Champion(
            version=len(now.log) + 1,
            model=model,
            partition=challenger.partition,
            training_job=challenger.training_job,
            in_force_from=f"{cadence.period(now.as_of).end:%Y-%m-%d}",
            promoted_at=promoted_at.isoformat(),
            kind="promotion" if now.champion else "first",
            reason=decision.reason,
            figures=_figures(comparison),
            run_id=run_id,
        )
        try:
            promote(storage, entry)
        except EntryTaken:
            continue
        return replace(now, log=[*now.log, entry], considered=considered)


def replacement_due(
    champion: Champion,
    point: DecayPoint | None,
    as_of: str,
    cadence: Cadence,
    rules: PromotionRules,
) -> str | None:
    """Why a champion is to be replaced, as of the newest period; None where it isn't.

    `point` is how it does, if that is known.
    """
    if point is not None and point.causes:
        return f"the champion has decayed by its {' and '.join(point.causes)}"
    age = cadence.period(as_of).end - cadence.period(champion.partition).end
    if rules.max_age is not None and age > rules.max_age:
        return f"the champion is {age.days} days old, of {rules.max_age.days} allowed"
    return None


def _challenger(
    storage: Storage, model: str, log: Sequence[Champion], confirmed: str | None
) -> RegisteredModel | None:
    models = registered_models(storage, model)
    if confirmed is not None:
        named = [registered for registered in models if registered.training_job == confirmed]
        if not named:
            newest = ", ".join(registered.training_job for registered in models[-5:])
            raise ModelMissing(
                f"{model} has no model of the training job {confirmed!r}: confirm one that is registered "
                f"under {storage.uri(f'models/{model}')}; the newest are: {newest or 'none'}"
            )
        if not (log and log[-1].training_job == confirmed):
            return named[-1]
    return candidate(log, models)


def _compare(
    storage: Storage,
    cadence: Cadence,
    champion: Champion,
    challenger: RegisteredModel,
    evaluations: Sequence[Evaluation],
    predictors: Predictors,
    rules: PromotionRules,
) -> Comparison:
    predictors.load(challenger.training_job)  # what is wrong with it is said as it is
    try:
        registered = champion_model(storage, champion)
        check_target(challenger, registered)
        ours, theirs = _on_test_split(storage, cadence, registered, challenger, predictors)
    except (ModelMissing, *UNUSABLE) as error:
        raise ChampionUnusable(
            f"{challenger.training_job} can't be compared with version {champion.version} of the "
            f"champions of {champion.model}, {champion.training_job}: {error}. Or else materialize the "
            f"champion with `confirm: {challenger.training_job}`"
        ) from error
    champion_parts, challenger_parts = [ours], [theirs]
    jobs = (registered.training_job, challenger.training_job)
    newer = max(registered.partition, challenger.partition)
    for evaluation in evaluations:
        if evaluation.partition <= newer:
            continue
        outcomes = read_outcomes(storage, evaluation, jobs)
        if len(outcomes) == 2:
            champion_parts.append(outcomes[jobs[0]])
            challenger_parts.append(outcomes[jobs[1]])
    return compare(
        predictors.scorer.measure,
        concatenate(champion_parts),
        concatenate(challenger_parts),
        margin=rules.margin,
        min_rows=rules.min_rows,
        seed=rules.seed,
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
