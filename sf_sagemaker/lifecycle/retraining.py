"""Whether a model is to be retrained now, for which period and why: from a state to a decision.

A cause (stale, decayed, changed) belongs to the model as a whole, not to a partition. It is asked for
once in an *episode*, which lasts from one trained model to the next; what was asked before is read
from the runs, so that nothing is stored here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from dateutil.relativedelta import relativedelta

from sf_sagemaker.periods import Cadence, trailing_window

Cause = Literal["first", "freshness", "decay", "code", "schedule"]
Trigger = Literal["sensor", "backstop", "schedule"]
"""Who asks: the sensor, the schedule that takes over where the sensor's runs all failed, or the
schedule of a model that is trained on schedule only."""

RunOutcome = Literal["succeeded", "failed", "canceled"]


@dataclass(frozen=True)
class Training:
    """The newest model: its period's latest materialization. `at` is when it was trained (UTC).

    `warm_up` says that its dataset's window was not full: it never becomes champion.
    """

    partition: str
    at: datetime
    storage_id: int
    warm_up: bool = False


@dataclass(frozen=True)
class Run:
    """A finished run of an episode. `request` is False for a retry of another one."""

    partition: str
    outcome: RunOutcome
    request: bool


@dataclass(frozen=True)
class ModelState:
    """What is known of a model at one moment. Datetimes are UTC.

    `landed` is the newest period of the source that has landed, and `obstacle` says why it can't be
    used all the same: a blocking check that failed. `deadline_missed` is when a freshness policy with
    deadlines began to fail; `decay_failed` when the decay check last failed, None where it passed
    since. `changed` are the assets whose code version differs from what the newest model was made
    with; `built_otherwise` says that a run which was asked for with this code has built one of them
    with other code all the same. `champion` says that a model is in force. `in_progress` describes a
    run or a backfill of the model or of its inputs. `runs` are those of the present episode.
    """

    now: datetime
    trained: Training | None = None
    landed: str | None = None
    obstacle: str | None = None
    deadline_missed: datetime | None = None
    decay_failed: datetime | None = None
    changed: tuple[str, ...] = ()
    built_otherwise: bool = False
    champion: bool = False
    in_progress: str | None = None
    runs: tuple[Run, ...] = ()

    @property
    def episode(self) -> str:
        """Names the episode: every training of a newer period, or of the newest again, begins one."""
        return str(self.trained.storage_id) if self.trained else "0"


@dataclass(frozen=True)
class RetrainingPolicy:
    """When a model is retrained. `window` is the length of its datasets.

    `cool_down` is the number of periods that must have landed since the newest model's for a failing
    decay check to ask for another one; `max_requests` bounds the requests of an episode for one
    period, each with its retries.
    """

    cadence: Cadence
    window: relativedelta
    fail_window: timedelta | None = None
    cool_down: int = 2
    max_requests: int = 3


@dataclass(frozen=True)
class Decision:
    """A request for a period, or None with the reason why nothing is asked.

    `alert` marks what a person has to look at: what is due can't be done.
    """

    causes: tuple[Cause, ...]
    episode: str
    reason: str
    partition: str | None = None
    alert: bool = False


def decide(state: ModelState, policy: RetrainingPolicy, trigger: Trigger) -> Decision:
    """What to do about a model now."""
    causes = _causes(state, policy, trigger)

    def nothing(reason: str, *, alert: bool = False) -> Decision:
        return Decision(causes, state.episode, reason, alert=alert)

    if not causes:
        return nothing(_in_order(state, policy))
    due = f"due ({', '.join(causes)})"
    if state.landed is None:
        return nothing(f"{due}, but no period of the source has landed")
    if not trailing_window(policy.cadence, policy.cadence.period(state.landed), policy.window).full:
        if state.champion:
            return nothing(
                f"{due}, but the window of {state.landed} reaches back before "
                f"{policy.cadence.start:%Y-%m-%d}, where the periods start, and its model could not "
                "take over from the champion: shorten sample.window, or start the periods earlier and "
                "land them",
                alert=True,
            )
        return nothing(
            f"{due}, but the window of {state.landed} is not full yet: train a warm-up by hand"
        )
    if state.trained is not None:
        newer = state.landed > state.trained.partition
        anew = state.landed == state.trained.partition and "code" in causes
        # A run would build with other code once more: only another cause is worth one.
        in_vain = "code" in causes and state.built_otherwise
        others = tuple(cause for cause in causes if cause != "code")
        if in_vain and not (newer and others):
            return nothing(
                f"{due}, but the model of {state.trained.partition} was asked for with the code that "
                "the code location has, and built with other code: reload the code location. Where it "
                "is up to date already, train by hand",
                alert=True,
            )
        if not (newer or anew):
            return nothing(
                f"{due}, but no period has landed after {state.trained.partition}, on which the newest "
                "model was trained: land newer data",
                alert=causes != ("schedule",),
            )
        landed_since = _periods_between(policy.cadence, state.trained.partition, state.landed)
        if (others if in_vain else causes) == ("decay",) and landed_since < policy.cool_down:
            return nothing(
                f"{due}, but in cool-down: {landed_since} of {policy.cool_down} periods have landed "
                f"since {state.trained.partition}, on which the newest model was trained"
            )
    if state.obstacle is not None:
        return nothing(f"{due}, but {state.obstacle}", alert=True)
    if state.in_progress is not None:
        return nothing(f"{due}, but {state.in_progress} is in progress")
    refusal = _asked_before(state, policy, trigger)
    if refusal is not None:
        return nothing(f"{due}, but {refusal}", alert=bool(state.runs))
    return Decision(causes, state.episode, due, partition=state.landed)


def _causes(state: ModelState, policy: RetrainingPolicy, trigger: Trigger) -> tuple[Cause, ...]:
    """All causes that hold, whether or not anything can be done about them."""
    found: list[Cause] = []
    trained = state.trained
    if trained is None or trained.warm_up:
        found.append("first")
    if trained is not None:
        expired = policy.fail_window is not None and state.now - trained.at > policy.fail_window
        if expired or _since(state.deadline_missed, trained, state.now):
            found.append("freshness")
        if _since(state.decay_failed, trained, state.now):
            found.append("decay")
        if state.changed:
            found.append("code")
    if trigger == "schedule":
        found.append("schedule")
    return tuple(found)


def _since(moment: datetime | None, trained: Training, now: datetime) -> bool:
    """Whether something happened after the training.

    A training of the future was dated by a clock that was wrong, and can't be compared with.
    """
    return moment is not None and (moment > trained.at or trained.at > now)


def _asked_before(state: ModelState, policy: RetrainingPolicy, trigger: Trigger) -> str | None:
    """Why the episode's earlier requests leave none to this trigger; None where they do."""
    if not state.runs:
        return "the sensor asks first" if trigger == "backstop" else None
    count = _count(state.runs)
    # Whoever cancels a run has decided about its period, and not about those that land later.
    decided = [run for run in state.runs if trigger == "sensor" or run.partition == state.landed]
    if any(run.outcome != "failed" for run in decided):
        return f"it was asked for already: {count}. Train it by hand"
    if trigger == "sensor":
        return f"it was asked for already: {count}. The schedule asks again"
    requests = sum(run.request and run.partition == state.landed for run in state.runs)
    if requests >= policy.max_requests:
        return (
            f"it was asked for {requests} times for {state.landed} already: {count}. Mend the cause "
            "and train it by hand, or wait for the next period"
        )
    return None


def _in_order(state: ModelState, policy: RetrainingPolicy) -> str:
    if state.trained is None:
        return "no model was trained yet"
    age = state.now - state.trained.at
    text = f"nothing is due: the newest model, of {state.trained.partition}, is {_days(age)} old"
    if age < timedelta(0):
        return f"{text}: its training is dated in the future, so one of the clocks is wrong"
    return f"{text}, of {_days(policy.fail_window)} allowed" if policy.fail_window else text


def _count(runs: Sequence[Run]) -> str:
    counts = dict.fromkeys(("succeeded", "failed", "canceled"), 0)
    for run in runs:
        counts[run.outcome] += 1
    runs_of = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    return f"of its runs, {', '.join(runs_of)}"


def _days(length: timedelta) -> str:
    return f"{length / timedelta(days=1):.2f} days"


def _periods_between(cadence: Cadence, earlier: str, later: str) -> int:
    """How many periods `later` is after `earlier`."""
    start, end = cadence.period(earlier).end, cadence.period(later).end
    return sum(1 for _ in cadence.between(start, end)) if end > start else 0
