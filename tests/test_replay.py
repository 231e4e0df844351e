"""Thirty replayed weeks through the daemon, against a plain loop over the library on the same weeks."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from locations import REPOSITORY
from plain_loop import PlainLoop
from sf_sagemaker.commands.runs import Runs, land_and_build
from sf_sagemaker.components.retraining import CAUSE_TAG
from sf_sagemaker.definitions import defs
from sf_sagemaker.lifecycle.champions import Champion, read_champions
from sf_sagemaker.storage import LocalStorage
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

LANDED = ("2014-04-28", "2014-08-18")  # as many weeks as a dataset's window has
FIRST, LAST = "2014-08-25", "2015-03-16"
BIN = Path(sys.executable).parent


def test_a_replay_promotes_what_a_plain_loop_promotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "dagster").mkdir(parents=True)
    shutil.copy(REPOSITORY / "dagster.yaml", home / "dagster")
    monkeypatch.setenv("SF_SAGEMAKER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with dg.DagsterInstance.get() as instance:
        runs = Runs(defs(), instance)
        land_and_build(runs, "raw/house_sales", "features/house_price_features", LANDED)
        with daemon(home):
            # Once a later week has been asked for, all that this one led to is done.
            wait_until(
                lambda: newest_week(instance) > LAST,
                1800,
                pause=2,
                told=lambda: f"newest week: {newest_week(instance)!r}",
            )
        promoted = up_to(LAST, read_champions(LocalStorage(home / "storage"), "house_prices"))
        jobs = Counter(
            f"{run.job_name} {run.tags['dagster/partition']}" for run in weekly_runs(instance)
        )
        retrained = sorted(
            (run.tags["dagster/partition"], run.tags[CAUSE_TAG])
            for run in instance.get_runs()
            if CAUSE_TAG in run.tags and run.tags["dagster/partition"] <= LAST
        )
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert not failed

    loop = PlainLoop(tmp_path / "plain", home / "warehouse.duckdb")
    weeks = [
        week.key
        for week in loop.cadence.between(
            loop.cadence.period(FIRST).start, loop.cadence.period(LAST).end
        )
    ]
    assert len(weeks) == 30
    expected = loop.live(LANDED[1], weeks)
    assert [told(champion) for champion in promoted] == [told(champion) for champion in expected]
    assert len(expected) >= 2
    # Every week was updated once, and each cause brought one training.
    assert {f"house_prices_update {week}" for week in weeks} <= set(jobs)
    assert set(jobs.values()) == {1}
    first, *later = loop.trained
    assert retrained == [(first, "first"), *((week, "decay") for week in later)]


def told(champion: Champion) -> tuple[object, ...]:
    """What doesn't depend on the clock, or on who ran it."""
    return (
        champion.version,
        champion.kind,
        champion.training_job,
        champion.in_force_from,
        champion.reason,
    )


def up_to(week: str, champions: list[Champion]) -> list[Champion]:
    """The promotions that were decided when that week was the newest, or before."""
    return [champion for champion in champions if champion.in_force_from <= following(week)]


def following(week: str) -> str:
    from datetime import date, timedelta

    return str(date.fromisoformat(week) + timedelta(weeks=1))


def weekly_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return [run for run in instance.get_runs() if run.job_name == "house_prices_update"]


def newest_week(instance: dg.DagsterInstance) -> str:
    """The newest week whose update was asked for; empty before the first."""
    return max((run.tags["dagster/partition"] for run in weekly_runs(instance)), default="")


@contextmanager
def daemon(home: Path) -> Iterator[None]:
    """A daemon over the repository's code location, with the replay sensor turned on."""
    workspace = str(REPOSITORY / "workspace.yaml")
    subprocess.run(
        [BIN / "dagster", "sensor", "start", "house_prices_replay", "-w", workspace],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    with (home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "dagster-daemon", "run", "-w", workspace],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
