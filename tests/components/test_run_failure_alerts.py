"""Failed runs are reported: what is said, to whom, and what happens when nobody can be told."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from locations import REPOSITORY, own_deployment
from sf_sagemaker.components import RunFailureAlerts
from standins.slack import SlackStandIn, slack_api
from standins.smtp import smtp_server
from waiting import wait_until

WEEKS = dg.WeeklyPartitionsDefinition(start_date="2014-12-29", day_offset=1)
SECRET = "s3cr3t-of-the-warehouse"


class WarehouseDown(Exception):
    pass


@dg.asset(
    key=["house_prices", "sampled_training_dataset"], partitions_def=WEEKS, group_name="houses"
)
def dataset() -> None:
    try:
        raise ConnectionError("socket closed")
    except ConnectionError as error:
        raise WarehouseDown(
            f"Zürich didn't answer <https://ada:{SECRET}@db.example.com> & gave up — {SECRET}"
        ) from error


@dg.asset(key=["house_prices", "trained_xgboost_model"], partitions_def=WEEKS, deps=[dataset])
def model() -> None:
    pass


@dg.asset(key=["raw", "house_sales"])
def sales() -> None:
    raise ValueError("the file is gone")


@dg.op
def _tidy() -> None:
    raise RuntimeError("nothing to tidy")


@dg.job
def tidying() -> None:
    _tidy()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """One for the module: a sensor looks only at runs that fail after its first tick."""
    with own_deployment(tmp_path_factory.mktemp("deployment") / "home") as made:
        yield made


class Alerting:
    """The sensor that the attributes describe beside assets that fail, ticked as the daemon does."""

    def __init__(self, instance: dg.DagsterInstance, attributes: str) -> None:
        component = RunFailureAlerts.from_attributes_dict(attributes=yaml.safe_load(attributes))
        self.instance = instance
        self.definitions = dg.Definitions.merge(
            component.build_defs(dg.ComponentTree.for_test().load_context),
            dg.Definitions(
                assets=[dataset, model, sales],
                jobs=[tidying, dg.define_asset_job("house_prices_training", [dataset, model])],
            ),
        )
        [self.sensor] = list(self.definitions.sensors or [])
        self.cursor = self._tick().cursor  # the first tick only looks where to start

    def fail(self, job: str = "__ASSET_JOB", **execution: Any) -> dg.ExecuteInProcessResult:
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, raise_on_error=False, **execution
        )
        assert not result.success
        return result

    def tick(self) -> list[str | None]:
        """The errors of the runs that it handled, None for those without."""
        data = self._tick()
        self.cursor = data.cursor
        return [
            reaction.error and reaction.error.to_string()
            for reaction in data.dagster_run_reactions or []
        ]

    def _tick(self) -> Any:
        repository = self.definitions.get_repository_def()
        assert isinstance(self.sensor, dg.SensorDefinition)
        with dg.build_sensor_context(
            self.instance,
            cursor=getattr(self, "cursor", None),
            repository_def=repository,
            sensor_name=self.sensor.name,
        ) as context:
            return self.sensor.evaluate_tick(context)


@pytest.fixture
def alerting(instance: dg.DagsterInstance) -> Callable[[str], Alerting]:
    return lambda attributes: Alerting(instance, attributes)


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackStandIn]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with slack_api() as api:
        yield api


def through_slack(slack: SlackStandIn, more: str = "") -> str:
    return (
        f'  notify: slack\n  slack: {{channel: "#models", api_url: "{slack.url}"}}\n'
        f"  base_url: https://dagster.example.com/\n{more}"
    )


def failed_week(alerts: Alerting, **tags: str) -> dg.ExecuteInProcessResult:
    return alerts.fail(
        asset_selection=[dataset.key, model.key], partition_key="2014-12-29", tags=tags
    )


def test_the_log_tells_what_failed(alerting, capfd, monkeypatch):
    monkeypatch.setenv("WAREHOUSE_PASSWORD", SECRET)
    alerts = alerting("  notify: log\n  base_url: http://127.0.0.1:3000\n")
    result = failed_week(
        alerts, **{"sf_sagemaker/cause": "freshness, decay", "dagster/will_retry": "true"}
    )
    capfd.readouterr()
    assert alerts.tick() == [None]
    said = capfd.readouterr().err
    for line in (
        "Run failed: house_prices/sampled_training_dataset and 1 more, 2014-12-29",
        "assets: house_prices/sampled_training_dataset, house_prices/trained_xgboost_model",
        "model: house_prices",
        "partition: 2014-12-29",
        "cause: freshness, decay",
        "failed step: house_prices__sampled_training_dataset",
        "WarehouseDown: Zürich didn't answer",
        "next: Dagster retries the run",
        f"run: http://127.0.0.1:3000/runs/{result.run_id}",
    ):
        assert line in said, said
    assert SECRET not in said
    assert "socket closed" not in said  # what caused it is in the run
    assert alerts.tick() == []


def test_the_sensor_runs_by_default_and_says_what_it_does(alerting):
    sensor = alerting("  notify: log\n").sensor
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.name == "run_failure_alerts"
    assert sensor.description


def test_called_with_one_run(alerting, capfd):
    """As a user's own test would call the sensor, with the context that Dagster builds for that."""
    alerts = alerting("  notify: log\n")
    result = alerts.fail("tidying")
    event = next(e for e in result.all_events if e.event_type_value == "PIPELINE_FAILURE")
    context = dg.build_run_status_sensor_context(
        sensor_name=alerts.sensor.name,
        dagster_event=event,
        dagster_instance=alerts.instance,
        dagster_run=result.dagster_run,
    )
    alerts.sensor(context)
    said = capfd.readouterr().err
    assert "Run failed: tidying" in said
    assert "RuntimeError: nothing to tidy" in said


def test_a_range_of_partitions_and_a_job_are_named(alerting, slack, monkeypatch):
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-the-test")
    alerts = alerting(through_slack(slack))
    alerts.fail("tidying")
    alerts.fail(
        "house_prices_training",
        tags={
            "dagster/asset_partition_range_start": "2014-12-29",
            "dagster/asset_partition_range_end": "2015-01-05",
        },
    )
    assert alerts.tick() == [None, None]
    tidied, trained = (message["text"] for message in slack.posted)
    assert tidied.startswith("Run failed: tidying\n")
    assert "model:" not in tidied
    assert trained.startswith("Run failed: house_prices_training, 2014-12-29 to 2015-01-05\n")


def test_slack_gets_plain_text_with_the_token_of_the_moment(alerting, slack, monkeypatch):
    monkeypatch.delenv("SLACK_BOT_TOKEN", raising=False)
    monkeypatch.setenv("WAREHOUSE_PASSWORD", SECRET)
    alerts = alerting(through_slack(slack))
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-the-test")  # read now, not when it was loaded
    result = failed_week(alerts)
    assert alerts.tick() == [None]
    [message] = slack.posted
    assert slack.tokens == ["Bearer xoxb-of-the-test"]
    assert message["channel"] == "#models"
    assert message["mrkdwn"] in (False, "0", "false", "False")
    assert "Zürich didn't answer &lt;https://" in message["text"]
    assert "&amp; gave up" in message["text"]
    assert f"run: https://dagster.example.com/runs/{result.run_id}" in message["text"]
    assert SECRET not in message["text"]


@pytest.mark.parametrize("trouble", ["refused", "unreachable", "no token"])
def test_an_alert_that_slack_does_not_take_is_not_lost(
    alerting, slack, monkeypatch, capfd, trouble
):
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-the-test")
    attributes = through_slack(slack)
    if trouble == "refused":
        slack.error = "channel_not_found"
    elif trouble == "unreachable":
        attributes = attributes.replace(slack.url, "http://127.0.0.1:9/api/")
    else:
        monkeypatch.delenv("SLACK_BOT_TOKEN")
    alerts = alerting(attributes)
    result = failed_week(alerts)
    capfd.readouterr()
    [error] = alerts.tick()
    reason = {
        "refused": "channel_not_found",
        "unreachable": "Connection refused",
        "no token": "SLACK_BOT_TOKEN",
    }[trouble]
    assert error is not None
    assert "AlertNotSent: The alert was not sent." in error
    assert reason in error
    assert "partition: 2014-12-29" in error
    assert "xoxb-of-the-test" not in error
    said = capfd.readouterr().err
    assert "partition: 2014-12-29" in said
    assert reason in said
    events = [entry.message for entry in alerts.instance.all_logs(result.run_id)]
    assert any("The alert was not sent." in text and reason in text for text in events)


def test_one_alert_that_fails_does_not_hold_up_the_next(alerting, slack, monkeypatch):
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-the-test")
    alerts = alerting(through_slack(slack))
    slack.error = "ratelimited"
    alerts.fail("tidying")
    [error] = alerts.tick()
    assert error
    slack.error = None
    alerts.fail("tidying")
    assert alerts.tick() == [None]
    assert len(slack.posted) == 1


@pytest.mark.parametrize("security", ["ssl", "starttls", "none"])
def test_an_email_goes_to_every_recipient(alerting, tmp_path, monkeypatch, security):
    with smtp_server(tmp_path, security) as smtp:
        smtp.logins = {"ada": "pass-of-the-test"}
        monkeypatch.setenv("SMTP_PASSWORD", "pass-of-the-test")
        monkeypatch.setenv("SSL_CERT_FILE", str(smtp.certificate))
        login = "" if security == "none" else ", user: ada, password_variable: SMTP_PASSWORD"
        alerts = alerting(
            "  notify: email\n  email: {sender: dagster@example.com, "
            "recipients: [ada@example.com, grace@example.com], host: 127.0.0.1, "
            f"port: {smtp.port}, security: {security}{login}}}\n"
        )
        failed_week(alerts)
        assert alerts.tick() == [None]
    [message] = smtp.received
    assert smtp.recipients == [["ada@example.com", "grace@example.com"]]
    assert message["From"] == "dagster@example.com"
    assert message["Subject"].strip() == (  # after a fold
        "Run failed: house_prices/sampled_training_dataset and 1 more, 2014-12-29"
    )
    assert message.get_content_type() == "text/plain"
    assert "Zürich didn't answer" in message.get_content()
    if security != "none":
        assert not any("AUTH" in line or "MAIL" in line for line in smtp.sent_in_clear)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("wrong password", "no login for ada"),
        ("unknown certificate", "CERTIFICATE_VERIFY_FAILED"),
        ("one recipient refused", "refused grace@example.com"),
    ],
)
def test_an_alert_that_the_mail_server_does_not_take_is_not_lost(
    alerting, tmp_path, monkeypatch, trouble, reason
):
    with smtp_server(tmp_path, "starttls") as smtp:
        smtp.logins = {"ada": "another" if trouble == "wrong password" else "pass-of-the-test"}
        smtp.refused = {"grace@example.com"} if trouble == "one recipient refused" else set()
        monkeypatch.setenv("MAIL", "pass-of-the-test")
        if trouble != "unknown certificate":
            monkeypatch.setenv("SSL_CERT_FILE", str(smtp.certificate))
        alerts = alerting(
            "  notify: email\n  email: {sender: dagster@example.com, "
            "recipients: [ada@example.com, grace@example.com], host: 127.0.0.1, "
            f"port: {smtp.port}, user: ada, password_variable: MAIL}}\n"
        )
        failed_week(alerts)
        [error] = alerts.tick()
    assert error is not None
    assert reason in error
    assert "partition: 2014-12-29" in error
    assert "pass-of-the-test" not in error  # which the server repeats in its answer


@pytest.mark.parametrize(
    ("selection", "reported"),
    [
        ("  assets: group:houses\n", ["house_prices/sampled"]),
        ('  assets: "key:raw/house_sales"\n', ["raw/house_sales"]),
        ("  jobs: [tidying]\n", ["tidying"]),
        ("  jobs: [tidying]\n  assets: group:houses\n", ["tidying", "house_prices/sampled"]),
        ("  assets: group:horses\n", ["tidying", "house_prices/sampled", "raw/house_sales"]),
        ("  jobs: [untidying]\n", ["tidying", "house_prices/sampled", "raw/house_sales"]),
    ],
)
def test_only_the_selected_runs_are_reported(alerting, slack, monkeypatch, selection, reported):
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-the-test")
    alerts = alerting(through_slack(slack, selection))
    alerts.fail("tidying")
    failed_week(alerts)
    alerts.fail(asset_selection=[sales.key])
    assert alerts.tick() == [None, None, None]
    subjects = [message["text"].splitlines()[0] for message in slack.posted]
    assert len(subjects) == len(reported)
    for subject, name in zip(subjects, reported, strict=True):
        assert subject.startswith(f"Run failed: {name}")


EMAIL = "email: {sender: a@b.ch, recipients: [c@d.ch], host: smtp.example.com"


@pytest.mark.parametrize(
    ("attributes", "line", "says"),
    [
        ("  notify: slack\n", 3, ["attributes.notify", "channel"]),
        ("  notify: email\n", 3, ["attributes.notify", "recipients"]),
        ("  notify: pager\n", 3, ["attributes.notify", "'log', 'slack' or 'email'"]),
        ("  notify: slack\n  slack: {token_variable: A}\n", 4, ["attributes.slack", "channel"]),
        ('  notify: slack\n  slack: {channel: "#a", tokn_variable: A}\n', 4,
         ["attributes.slack.tokn_variable", "did you mean 'token_variable'"]),
        (f"  notify: email\n  {EMAIL}, port: 0}}\n", 4, ["email.port", "at least 1"]),
        ("  notify: email\n  email: {sender: a@b.ch, recipients: [c], host: h}\n", 4,
         ["email.recipients", "'c' is not an e-mail address"]),
        (f"  notify: email\n  {EMAIL}, security: none, password_variable: P}}\n", 4,
         ["email.security", "in the clear"]),
        ("  base_url: dagster.example.com\n", 3, ["attributes.base_url", "https://"]),
        ('  assets: "group:("\n', 3, ["attributes.assets", "group:house_prices"]),
    ],
)  # fmt: skip
def test_a_mistake_is_located_and_explained(project, attributes, line, says):
    file = project.add(
        "alerts", f"type: sf_sagemaker.components.RunFailureAlerts\nattributes:\n{attributes}"
    )
    text = project.mistake()
    assert f"{file.name}:{line}" in text, text
    for phrase in says:
        assert phrase in text, text


def test_a_secret_in_place_of_its_variable_is_refused_and_not_repeated(project):
    project.add(
        "alerts",
        """
        type: sf_sagemaker.components.RunFailureAlerts
        attributes:
          notify: slack
          slack: {channel: "#models", token_variable: xoxb-1-2}
        """,
    )
    text = project.mistake()
    assert "defs.yaml:4" in text
    assert "slack.token_variable" in text
    assert "xoxb-1-2" not in text


def test_loading_needs_neither_slack_nor_mail() -> None:
    script = (
        "import sys, sf_sagemaker.components, sf_sagemaker.components.notifiers\n"
        "loaded = {'slack_sdk', 'dagster_slack'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)


LOCATION = """
import dagster as dg
from sf_sagemaker.components import RunFailureAlerts

def alerts(**attributes):
    component = RunFailureAlerts.from_attributes_dict(attributes=attributes)
    return component.build_defs(dg.ComponentTree.for_test().load_context)

@dg.op
def tidy(): raise RuntimeError("nothing to tidy")

@dg.job(executor_def=dg.in_process_executor)
def tidying(): tidy()

slack = {"channel": "#models", "api_url": "http://127.0.0.1:9/api/"}
defs = dg.Definitions.merge(
    alerts(name="to_the_log"),
    alerts(name="to_nobody", notify="slack", slack=slack),
    dg.Definitions(jobs=[tidying]),
)
"""


@pytest.mark.slow
def test_with_the_daemon_a_failed_run_is_reported_once_and_a_lost_alert_fails_the_tick(tmp_path):
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "location.py").write_text(textwrap.dedent(LOCATION))
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "SLACK_BOT_TOKEN": "xoxb-of-the-test",
        "PYTHONPATH": str(REPOSITORY),
    }
    commands = Path(sys.executable).parent
    daemon = subprocess.Popen(
        [commands / "dagster-daemon", "run", "-f", "location.py"],
        cwd=tmp_path,
        env=environment,
        stdout=(tmp_path / "daemon.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    eventually = partial(wait_until, seconds=240, pause=1, told=(tmp_path / "daemon.log").read_text)
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            eventually(lambda: set(ticks(instance)) == {"to_the_log", "to_nobody"})
            subprocess.run(
                [commands / "dagster", "job", "launch", "-f", "location.py", "-j", "tidying"],
                cwd=tmp_path,
                env=environment,
                check=True,
                capture_output=True,
            )
            eventually(
                lambda: (
                    ticks(instance)["to_nobody"].get("FAILURE")
                    and ticks(instance)["to_the_log"].get("SUCCESS")
                )
            )
            seen = len(ticks(instance)["to_nobody"]["SKIPPED"])
            eventually(lambda: len(ticks(instance)["to_nobody"]["SKIPPED"]) > seen)
            [error] = ticks(instance)["to_nobody"]["FAILURE"]
            assert "Connection refused" in error
            assert "Run failed: tidying" in error
            assert "RuntimeError: nothing to tidy" in error
            assert len(ticks(instance)["to_the_log"]["SUCCESS"]) == 1
            [run] = instance.get_runs()
            events = [entry.message for entry in instance.all_logs(run.run_id)]
            assert any("The alert was not sent." in text for text in events)
        log = (tmp_path / "daemon.log").read_text()
        assert "RuntimeError: nothing to tidy" in log
        assert "xoxb-of-the-test" not in log
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(60)


def ticks(instance: dg.DagsterInstance) -> dict[str, dict[str, list[str]]]:
    """What the finished ticks of each sensor say, by their status."""
    found: dict[str, dict[str, list[str]]] = {}
    for state in instance.all_instigator_state():
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id):
            if tick.status.value != "STARTED":
                by_status = found.setdefault(state.name, {"SKIPPED": []})
                by_status.setdefault(tick.status.value, []).append(
                    tick.error.to_string() if tick.error else ""
                )
    return found
