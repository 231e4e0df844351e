"""When a model is retrained, for which period, and how often."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.lifecycle.retraining import (
    Decision,
    ModelState,
    RetrainingPolicy,
    Run,
    Training,
    Trigger,
    decide,
)
from sf_sagemaker.periods import Cadence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CADENCE = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
WEEKS = [period.key for period in CADENCE.between(datetime(2014, 4, 28), datetime(2015, 6, 1))]
POLICY = RetrainingPolicy(
    cadence=CADENCE, window=relativedelta(weeks=3), fail_window=timedelta(days=84), cool_down=4
)
HEALTHY = ModelState(
    now=NOW, trained=Training(WEEKS[5], NOW - timedelta(days=10), 17), landed=WEEKS[6]
)
STALE = replace(HEALTHY, trained=Training(WEEKS[5], NOW - timedelta(days=85), 17))
DECAYED = replace(HEALTHY, decay_failed=NOW - timedelta(days=1), landed=WEEKS[9])
CHANGED = replace(HEALTHY, changed=("house_prices/trained_xgboost_model",), landed=WEEKS[5])
VAIN = {"changed": ("house_prices/trained_xgboost_model",), "built_otherwise": True}
WARM_UP = Training(WEEKS[0], NOW - timedelta(days=10), 17, warm_up=True)
FAILED = Run(WEEKS[6], "failed", request=True)


def decision(state: ModelState, trigger: Trigger = "sensor", **changes: Any) -> Decision:
    return decide(replace(state, **changes), POLICY, trigger)


@pytest.mark.parametrize(
    ("state", "changes", "causes", "partition"),
    [
        (HEALTHY, {}, (), None),
        (STALE, {}, ("freshness",), WEEKS[6]),
        (STALE, {"landed": WEEKS[20]}, ("freshness",), WEEKS[20]),
        (HEALTHY, {"deadline_missed": NOW - timedelta(days=1)}, ("freshness",), WEEKS[6]),
        (HEALTHY, {"deadline_missed": NOW - timedelta(days=11)}, (), None),
        (DECAYED, {}, ("decay",), WEEKS[9]),
        (DECAYED, {"decay_failed": NOW - timedelta(days=11)}, (), None),
        (CHANGED, {}, ("code",), WEEKS[5]),
        (CHANGED, {"landed": WEEKS[7]}, ("code",), WEEKS[7]),
        (STALE, {"decay_failed": NOW, "changed": ("a",)}, ("freshness", "decay", "code"), WEEKS[6]),
        (STALE, VAIN, ("freshness", "code"), WEEKS[6]),
        (HEALTHY, {"trained": None}, ("first",), WEEKS[6]),
        (HEALTHY, {"trained": WARM_UP, "landed": WEEKS[2]}, ("first",), WEEKS[2]),
        (HEALTHY, {"trained": WARM_UP, "changed": ("a",)}, ("first", "code"), WEEKS[6]),
    ],
)
def test_a_cause_asks_for_the_newest_landed_period(
    state: ModelState, changes: dict[str, Any], causes: tuple[str, ...], partition: str | None
) -> None:
    made = decision(state, **changes)
    assert (made.causes, made.partition) == (causes, partition), made.reason


@pytest.mark.parametrize(
    ("state", "changes", "reason", "alert"),
    [
        (HEALTHY, {}, "10.00 days old, of 84.00 days allowed", False),
        (STALE, {"landed": None}, "no period of the source has landed", False),
        (STALE, {"landed": WEEKS[5]}, f"no period has landed after {WEEKS[5]}", True),
        (STALE, {"landed": WEEKS[4]}, f"no period has landed after {WEEKS[5]}", True),
        (CHANGED, {"landed": WEEKS[4]}, f"no period has landed after {WEEKS[5]}", True),
        (HEALTHY, VAIN, "reload the code location", True),
        (HEALTHY, {**VAIN, "landed": WEEKS[5]}, "reload the code location", True),
        (STALE, {**VAIN, "landed": WEEKS[5]}, "reload the code location", True),
        (DECAYED, {**VAIN, "landed": WEEKS[8]}, "in cool-down: 3 of 4 periods have landed", False),
        (DECAYED, {"landed": WEEKS[8]}, "in cool-down: 3 of 4 periods have landed", False),
        (STALE, {"obstacle": "rows failed"}, "rows failed", True),
        (STALE, {"in_progress": "run 1"}, "run 1 is in progress", False),
        (HEALTHY, {"trained": None, "landed": WEEKS[1]}, "is not full yet", False),
        (HEALTHY, {"trained": WARM_UP, "landed": WEEKS[1]}, "is not full yet", False),
        (HEALTHY, {"landed": WEEKS[1], "champion": True}, "nothing is due", False),
        (CHANGED, {"landed": WEEKS[1], "champion": True}, "shorten sample.window", True),
        (STALE, {"runs": (FAILED,)}, "1 failed. The schedule asks again", True),
        (STALE, {"runs": (Run(WEEKS[6], "canceled", True),)}, "1 canceled. Train it by hand", True),
    ],
)
def test_why_nothing_is_asked(
    state: ModelState, changes: dict[str, Any], reason: str, alert: bool
) -> None:
    made = decision(state, **changes)
    assert made.partition is None
    assert reason in made.reason
    assert made.alert == alert


def test_another_cause_ends_the_cool_down() -> None:
    assert decision(DECAYED, landed=WEEKS[6]).partition is None
    assert decision(DECAYED, landed=WEEKS[6], changed=("a",)).partition == WEEKS[6]


def test_the_backstop_asks_only_after_runs_that_all_failed_and_not_forever() -> None:
    retry = replace(FAILED, request=False)
    assert "the sensor asks first" in decision(STALE, "backstop").reason
    assert decision(STALE, "backstop", runs=(FAILED, retry, retry)).partition == WEEKS[6]
    given_up = decision(STALE, "backstop", runs=(FAILED, retry) * POLICY.max_requests)
    assert given_up.partition is None
    assert "asked for 3 times" in given_up.reason
    assert "6 failed" in given_up.reason
    # A newer period is worth another attempt.
    newer = decision(STALE, "backstop", runs=(FAILED,) * 3, landed=WEEKS[7])
    assert newer.partition == WEEKS[7]
    runs = (FAILED, Run(WEEKS[6], "canceled", True))
    assert decision(STALE, "backstop", runs=runs).partition is None
    # Whoever cancelled has not decided about a newer period; but the sensor has asked.
    assert decision(STALE, "backstop", runs=runs, landed=WEEKS[7]).partition == WEEKS[7]
    assert decision(STALE, "sensor", runs=runs, landed=WEEKS[7]).partition is None


def test_on_schedule_only_each_newer_period_is_trained() -> None:
    assert decision(HEALTHY, "schedule").causes == ("schedule",)
    assert decision(HEALTHY, "schedule").partition == WEEKS[6]
    idle = decision(HEALTHY, "schedule", landed=WEEKS[5])
    assert (idle.partition, idle.alert) == (None, False)
    assert decision(STALE, "schedule").causes == ("freshness", "schedule")


def test_a_training_of_the_future_is_said_so_and_hides_no_decay() -> None:
    future = Training(WEEKS[5], NOW + timedelta(days=400), 17)
    assert "dated in the future" in decision(HEALTHY, trained=future).reason
    assert decision(DECAYED, trained=future).causes == ("decay",)


@given(
    trained=st.one_of(st.none(), st.tuples(st.integers(0, 20), st.integers(-500, 500))),
    landed=st.one_of(st.none(), st.integers(0, 20)),
    decayed=st.one_of(st.none(), st.integers(-500, 500)),
    changed=st.booleans(),
    outcomes=st.lists(st.sampled_from(["succeeded", "failed", "canceled"]), max_size=4),
)
def test_what_is_in_progress_or_in_the_way_is_never_asked_for(
    trained: tuple[int, int] | None,
    landed: int | None,
    decayed: int | None,
    changed: bool,
    outcomes: list[Any],
) -> None:
    state = ModelState(
        now=NOW,
        trained=Training(WEEKS[trained[0]], NOW - timedelta(days=trained[1]), 1)
        if trained
        else None,
        landed=None if landed is None else WEEKS[landed],
        decay_failed=None if decayed is None else NOW - timedelta(days=decayed),
        changed=("a",) if changed else (),
        runs=tuple(Run(WEEKS[0], outcome, True) for outcome in outcomes),
    )
    for trigger, hindrance in product(
        ("sensor", "backstop", "schedule"), ({"in_progress": "run 1"}, {"obstacle": "a check"})
    ):
        made = decide(state, POLICY, trigger)
        assert decide(replace(state, **hindrance), POLICY, trigger).partition is None
        assert made.partition in (None, state.landed)
        assert made.reason
        if made.partition is not None and state.trained is not None:
            assert made.causes
            assert made.partition >= state.trained.partition


@dataclass
class Site:
    """A model that is looked after by the sensor and the backstop, as a plain simulation."""

    now: datetime = NOW
    landed: int = 2
    trained: Training | None = None
    decay_failed: datetime | None = None
    changed: bool = False
    running: Decision | None = None
    runs: tuple[Run, ...] = ()
    stored: int = 0

    def state(self) -> ModelState:
        return ModelState(
            now=self.now,
            trained=self.trained,
            landed=WEEKS[self.landed],
            decay_failed=self.decay_failed,
            changed=("a",) if self.changed else (),
            in_progress="run 1" if self.running else None,
            runs=self.runs,
        )

    def finish(self, *, success: bool) -> None:
        assert self.running is not None
        assert self.running.partition is not None
        if success:
            self.stored += 1
            self.trained = Training(self.running.partition, self.now, self.stored)
            self.changed, self.runs = False, ()
        else:
            self.runs = (*self.runs, Run(self.running.partition, "failed", True))
        self.running = None


EVENTS = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from(["sensor", "backstop"])),
    st.tuples(st.just("clock"), st.integers(-1000, 1000)),
    st.tuples(st.just("land"), st.none()),
    st.tuples(st.just("decay"), st.booleans()),
    st.tuples(st.just("change"), st.none()),
    st.tuples(st.just("finish"), st.booleans()),
)


@given(st.lists(EVENTS, max_size=120))
def test_an_episode_is_asked_for_once_by_the_sensor_whatever_the_clock_does(
    events: list[tuple[str, Any]],
) -> None:
    site = Site()
    by_sensor: dict[str, int] = {}
    by_period: dict[tuple[str, str], int] = {}
    trainings = changes = 0
    for event, value in events:
        if event == "tick":
            made = decide(site.state(), POLICY, value)
            if made.partition is None:
                continue
            assert site.running is None
            assert made.partition == WEEKS[site.landed]
            if value == "sensor":
                by_sensor[made.episode] = by_sensor.get(made.episode, 0) + 1
            request = (made.episode, made.partition)
            by_period[request] = by_period.get(request, 0) + 1
            site.running = made
        elif event == "clock":
            site.now += timedelta(days=value)
        elif event == "land":
            site.landed = min(site.landed + 1, len(WEEKS) - 1)
        elif event == "decay":
            site.decay_failed = site.now if value else None
        elif event == "change":
            changes += not site.changed
            site.changed = True
        elif site.running is not None:
            trainings += value
            site.finish(success=value)
    assert all(count == 1 for count in by_sensor.values())
    assert all(count <= POLICY.max_requests for count in by_period.values())
    # One model for each landed period at most, and one for each change of the code.
    assert trainings <= site.landed - 2 + 1 + changes
