"""What a tick sees of a model: materializations, checks, code versions and runs of a real instance."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

import retraining_location as location
from retraining_location import WEEKS, assets_of
from sf_sagemaker.components.attributes import Freshness, Retraining
from sf_sagemaker.components.model_state import read_state
from sf_sagemaker.components.retraining_check import RETRAINING_CHECK, report_decision
from sf_sagemaker.lifecycle.retraining import Decision, ModelState, Trigger

ASSETS = assets_of("healthy")


class Site:
    """The model `healthy` of the small code location, in an instance of its own."""

    def __init__(self, instance: dg.DagsterInstance, home: Path) -> None:
        self.instance = instance
        self.home = home
        self.load()

    def load(self) -> None:
        """Loads the code, as the code server does once and each run for itself."""
        self.definitions = location.model_definitions("healthy", *location.MODELS["healthy"])
        self.repository = self.definitions.get_repository_def()

    def run(
        self, week: str | None, *keys: dg.AssetKey, tags: Mapping[str, str] | None = None
    ) -> bool:
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            asset_selection=list(keys),
            partition_key=week,
            instance=self.instance,
            raise_on_error=False,
            tags=dict(tags or {}),
        ).success

    def launch(self, request: dg.RunRequest | str) -> None:
        """The run of a request, which loads the code that is there now."""
        assert isinstance(request, dg.RunRequest), request
        run = Site(self.instance, self.home)
        assert run.run(request.partition_key, *request.asset_selection or (), tags=request.tags)

    def report(self, key: dg.AssetKey, week: str, **details: Any) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=week, **details)
        )

    def state(self) -> ModelState:
        return read_state(
            self.instance, self.repository, ASSETS, location.CADENCE, datetime.now(UTC)
        )

    def ask(self) -> dg.RunRequest | str:
        """The sensor's request, or why there is none."""
        sensor = self.repository.get_sensor_def("healthy_retraining")
        with dg.build_sensor_context(self.instance, repository_def=self.repository) as context:
            tick = sensor.evaluate_tick(context)
        return tick.run_requests[0] if tick.run_requests else tick.skip_message or ""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("STEERING", str(tmp_path))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Site(instance, tmp_path)


def test_a_first_model_is_asked_for_once_the_window_is_full(site: Site) -> None:
    assert "no period of the source has landed" in site.ask()
    assert site.run(WEEKS[0], ASSETS.source)
    assert "is not full yet" in site.ask()
    assert site.run(WEEKS[1], ASSETS.source)
    request = site.ask()
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == WEEKS[1]
    assert request.run_key == "healthy-0"
    assert request.asset_selection == ASSETS.built
    assert request.tags["sf_sagemaker/cause"] == "first"
    assert request.tags["sf_sagemaker/episode"] == "healthy-0"
    assert request.tags["sf_sagemaker/code"] == "1 1"
    assert request.tags["dagster/max_retries"] == "2"


def test_a_warm_up_leaves_the_first_model_with_a_full_window_due(site: Site) -> None:
    site.report(ASSETS.source, WEEKS[0])
    site.report(ASSETS.dataset, WEEKS[0], metadata={"window_full": False})
    site.report(ASSETS.model, WEEKS[0])
    assert "due (first), but the window of 2014-04-28 is not full yet" in str(site.ask())
    site.report(ASSETS.source, WEEKS[1])
    request = site.ask()
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.tags["sf_sagemaker/cause"]) == (WEEKS[1], "first")
    site.report(ASSETS.dataset, WEEKS[1], metadata={"window_full": True})
    site.report(ASSETS.model, WEEKS[1])
    assert "nothing is due" in str(site.ask())


def test_a_window_longer_than_the_history_is_reported_where_there_is_a_champion(site: Site) -> None:
    site.report(ASSETS.source, WEEKS[0])
    for metadata, champion, message in (
        ({}, False, "train a warm-up by hand"),
        ({"version": 1}, True, "shorten sample.window"),
    ):
        site.instance.report_runless_asset_event(
            dg.AssetMaterialization(ASSETS.champion, metadata=metadata)
        )
        assert site.state().champion == champion
        assert message in str(site.ask())
    [(passed, reason)] = reported(site)
    assert not passed
    assert "reaches back before 2014-04-28" in reason


def test_one_run_of_the_request_builds_all_three_and_begins_another_episode(site: Site) -> None:
    assert site.run(WEEKS[2], ASSETS.source)
    assert site.run(WEEKS[2], *ASSETS.built)
    state = site.state()
    assert state.trained is not None
    assert state.trained.partition == WEEKS[2]
    assert state.changed == ()
    assert "nothing is due" in site.ask()


def test_code_that_runs_do_not_load_is_asked_for_once_until_it_is_reloaded(site: Site) -> None:
    code = site.home / "healthy.code"
    site.report(ASSETS.source, WEEKS[2])
    for key in (ASSETS.dataset, ASSETS.model):
        site.report(key, WEEKS[2], tags={"dagster/code_version": "0"})
    code.write_text("2")
    site.launch(site.ask())
    for _ in range(2):
        assert "reload the code location" in str(site.ask())
    assert [passed for passed, _ in reported(site)][-1:] == [False]
    # A period that lands makes no difference to that.
    site.report(ASSETS.source, WEEKS[3])
    assert "reload the code location" in str(site.ask())
    site.load()
    assert "nothing is due" in str(site.ask())
    assert [passed for passed, _ in reported(site)][-2:] == [False, True]
    # Other code is asked for, and so is what an earlier run was asked for with.
    for version in ("3", "1"):
        code.write_text(version)
        site.load()
        request = site.ask()
        assert isinstance(request, dg.RunRequest), request
        assert request.tags["sf_sagemaker/code"] == f"{version} {version}"
        if version == "3":
            site.launch(request)


def test_a_failed_blocking_check_of_the_landed_period_is_an_obstacle(site: Site) -> None:
    damaged = site.home / "healthy.damaged"
    assert site.run(WEEKS[2], ASSETS.source)
    assert site.state().obstacle is None, "the check `advice` failed, and blocks nothing"
    damaged.touch()
    site.run(WEEKS[3], ASSETS.source)
    assert "check rows of healthy/features failed" in (site.state().obstacle or "")
    damaged.unlink()
    assert site.run(WEEKS[0], ASSETS.source)  # passes, and says nothing about the newest period
    assert f"failed in the run that built {WEEKS[3]}" in (site.state().obstacle or "")
    assert site.run(WEEKS[3], ASSETS.source)
    assert site.state().obstacle is None


def test_a_period_that_was_reported_from_outside_has_no_run_to_look_at(site: Site) -> None:
    for passed in (False, True):
        site.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=ASSETS.source, check_name="rows", passed=passed)
        )
    site.report(ASSETS.source, WEEKS[3])
    assert site.state().obstacle is None


def test_a_backfill_of_earlier_periods_makes_nothing_fresh(site: Site) -> None:
    site.report(ASSETS.model, WEEKS[5], tags={"dagster/code_version": "0"})
    before = site.state()
    site.report(ASSETS.model, WEEKS[3], tags={"dagster/code_version": "1"})
    after = site.state()
    assert after.trained == before.trained
    assert after.changed == ("healthy/model",)


def test_an_adopted_job_is_as_old_as_its_training(site: Site) -> None:
    trained = datetime.now(UTC) - timedelta(days=100)
    metadata = {"trained_at": dg.MetadataValue.timestamp(trained)}
    site.report(ASSETS.model, WEEKS[5], metadata=metadata)
    newest = site.state().trained
    assert newest is not None
    assert abs(newest.at - trained) < timedelta(seconds=1)


def test_a_partition_that_is_no_period_is_passed_over(site: Site) -> None:
    site.report(ASSETS.source, "2099-01-01")
    site.report(ASSETS.source, WEEKS[4])
    assert site.state().landed == WEEKS[4]


def test_a_run_that_died_before_its_check_leaves_the_verdict_before(site: Site) -> None:
    (site.home / "healthy.decayed").write_text(WEEKS[-1])
    site.report(ASSETS.model, WEEKS[2])
    assert site.run(WEEKS[2], ASSETS.champion)
    assert site.state().decay_failed is not None
    (site.home / "healthy.failures").write_text("1")
    assert not site.run(WEEKS[3], *ASSETS.built)
    latest = site.instance.get_latest_asset_check_evaluation_record(ASSETS.decay)
    assert latest is not None
    assert latest.status.value == "PLANNED"
    assert site.state().decay_failed is not None


def reported(site: Site) -> list[tuple[bool, str]]:
    """What the model's check `retraining` has said, oldest first, but for what its runs repeat."""
    records = site.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(ASSETS.model, RETRAINING_CHECK), limit=100
    )
    verdicts = [record.evaluation for record in reversed(records)]
    return [
        (verdict.passed, verdict.description or "")
        for verdict in verdicts
        if isinstance(verdict, dg.AssetCheckEvaluation)
    ]


def stale(site: Site, week: int) -> None:
    """The newest model, of that week, was trained long ago."""
    trained = dg.MetadataValue.timestamp(datetime.now(UTC) - timedelta(days=100))
    site.report(ASSETS.model, WEEKS[week], metadata={"trained_at": trained})


def test_what_a_person_must_do_is_reported_once_as_a_check_of_the_model(site: Site) -> None:
    assert site.run(WEEKS[2], ASSETS.source)
    stale(site, 2)
    for _ in range(3):
        assert "no period has landed after" in str(site.ask())
    [(passed, reason)] = reported(site)
    assert not passed
    assert reason.startswith("due (freshness), but no period has landed after 2014-05-12")
    latest = site.instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(ASSETS.model, RETRAINING_CHECK)
    )
    assert latest is not None
    evaluation = latest.evaluation
    assert isinstance(evaluation, dg.AssetCheckEvaluation)
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert evaluation.metadata["causes"].value == "freshness"
    # The next week lands, and fails its blocking check: another thing to do.
    (site.home / "healthy.damaged").touch()
    site.run(WEEKS[3], ASSETS.source)
    for _ in range(2):
        assert "blocking check" in str(site.ask())
    assert [passed for passed, _ in reported(site)] == [False, False]
    (site.home / "healthy.damaged").unlink()
    assert site.run(WEEKS[3], ASSETS.source)
    for _ in range(2):
        assert isinstance(site.ask(), dg.RunRequest)
    assert [passed for passed, _ in reported(site)] == [False, False, True]


def test_where_nothing_waits_for_a_person_nothing_is_reported(site: Site) -> None:
    assert "no period of the source has landed" in str(site.ask())
    assert site.run(WEEKS[2], ASSETS.source)
    assert isinstance(site.ask(), dg.RunRequest)
    assert reported(site) == []
    assert site.run(WEEKS[2], *ASSETS.built)
    assert reported(site) == [(True, "nothing that is due waits for a person")]


def test_a_check_that_is_run_repeats_what_was_reported_until_a_model_is_trained(site: Site) -> None:
    assert site.run(WEEKS[2], ASSETS.source)
    stale(site, 2)
    site.ask()
    job = site.definitions.resolve_implicit_global_asset_job_def()
    check = dg.AssetCheckKey(ASSETS.model, RETRAINING_CHECK)

    def run_check() -> tuple[bool, str]:
        selection = dg.AssetSelection.checks(check)
        defs = dg.Definitions.merge(
            site.definitions,
            dg.Definitions(jobs=[dg.define_asset_job("check_only", selection)]),
        )
        only = defs.resolve_job_def("check_only")
        assert only.execute_in_process(instance=site.instance).success
        return reported(site)[-1]

    assert job.has_node("healthy__model_retraining")
    first = run_check()
    assert first == reported(site)[0]
    assert not first[0]
    site.report(ASSETS.model, WEEKS[2])
    assert run_check() == (True, f"a model of {WEEKS[2]} was trained since")


def test_what_the_backstop_has_found_stays_until_something_new_is_known(site: Site) -> None:
    stale(site, 2)
    site.report(ASSETS.source, WEEKS[3])
    state = site.state()

    def says(
        trigger: Trigger, reason: str, *, alert: bool = True, state: ModelState = state
    ) -> None:
        decision = Decision(("freshness",), state.episode, reason, alert=alert)
        report_decision(site.instance, ASSETS, state, decision, trigger)

    for _ in range(2):
        says("sensor", "3 runs failed")
    says("backstop", "mend it by hand")
    for _ in range(2):
        says("sensor", "3 runs failed")
        says("backstop", "the sensor asks first", alert=False)
    says("sensor", "a run is in progress", alert=False, state=replace(state, in_progress="run x"))
    assert reported(site) == [(False, "3 runs failed"), (False, "mend it by hand")]
    says("sensor", "3 runs failed", state=replace(state, landed=WEEKS[4]))
    says("sensor", "nothing is due", alert=False)
    assert reported(site)[2:] == [(False, "3 runs failed"), (True, "nothing is due")]


def test_freshness_attributes_are_a_window_or_a_deadline() -> None:
    assert Freshness(fail_window="84 days", warn_window="70 days").window() == timedelta(days=84)
    deadline = Freshness(deadline="0 9 * * 1", within="12 hours", timezone="Europe/Zurich")
    assert deadline.window() is None
    assert isinstance(deadline.policy(), dg.FreshnessPolicy)


@pytest.mark.parametrize(
    ("attributes", "mistake"),
    [
        ({}, "either fail_window, or deadline"),
        ({"warn_window": "3 days"}, "either fail_window, or deadline"),
        ({"fail_window": "3 days", "deadline": "0 9 * * 1"}, "either fail_window, or deadline"),
        ({"fail_window": "2 months"}, "has no fixed duration"),
        ({"fail_window": "10 seconds"}, "cannot be less than 1 minute"),
        ({"fail_window": "3 days", "warn_window": "4 days"}, "must be less than fail_window"),
        ({"fail_window": "3 days", "within": "1 hour"}, "belongs to a deadline"),
        ({"deadline": "0 9 * * 1"}, "needs within"),
        ({"deadline": "mondays", "within": "1 hour"}, "Invalid cron"),
        ({"deadline": "0 9 * * *", "within": "3 days"}, "less than or equal to the smallest"),
        ({"fail_window": "3 days", "timezone": "Mars"}, "no such time zone"),
    ],
)
def test_mistakes_in_freshness(attributes: dict[str, str], mistake: str) -> None:
    with pytest.raises(ValidationError, match=mistake):
        Freshness(**attributes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attributes", "mistake"),
    [
        ({"schedule": "weekly"}, "not a cron expression"),
        ({"cool_down": 0}, "at least 1"),
        ({"max_retries": 11}, "at most 10"),
        ({"max_requests": 0}, "at least 1"),
    ],
)
def test_mistakes_in_retraining(attributes: dict[str, Any], mistake: str) -> None:
    with pytest.raises(ValidationError, match=mistake):
        Retraining(**attributes)
