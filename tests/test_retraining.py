"""Retraining against a real instance, daemon and code server: how many runs each cause makes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from locations import REPOSITORY
from retraining_location import MODELS, WEEKS, assets_of
from sf_sagemaker.components.retraining import CAUSE_TAG
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TESTS = REPOSITORY / "tests"
BIN = Path(sys.executable).parent
LATEST_DEADLINE = (
    330  # seconds after which the daemon's session is over, whatever it is still doing
)


@dataclass
class Site:
    """A Dagster instance of its own, a code server, and daemons that come and go."""

    home: Path
    instance: dg.DagsterInstance
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "STEERING": str(self.home),
            "PYTHONPATH": f"{REPOSITORY}:{TESTS}",
            "FRESHNESS_DAEMON_INTERVAL_SECONDS": "3",
        }

    def start(self, arguments: list[str], log: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            arguments,
            cwd=self.home,
            env=self.environment,
            stdout=(self.home / log).open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @contextmanager
    def running(self, arguments: list[str], log: str) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start(arguments, log)
        try:
            yield process
        finally:
            kill(process)

    def steer(self, model: str, what: str, content: str = "") -> Path:
        file = self.home / f"{model}.{what}"
        file.write_text(content)
        return file

    def land(self, model: str, *weeks: str) -> None:
        for week in weeks:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(assets_of(model).source, partition=week)
            )

    def trained(self, model: str, week: str, ago: timedelta, code: str = "1") -> None:
        """A model of a week that was trained a while ago, and its dataset."""
        at = (datetime.now(UTC) - ago).timestamp()
        for key in (assets_of(model).dataset, assets_of(model).model):
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key,
                    partition=week,
                    metadata={"trained_at": dg.MetadataValue.timestamp(at)},
                    tags={"dagster/code_version": code},
                )
            )

    def decay_check_failed(self, model: str) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=assets_of(model).champion, check_name="decay", passed=False
            )
        )

    def backfill(self, model: str, week: str) -> None:
        keys = [assets_of(model).dataset, assets_of(model).model]
        output = subprocess.run(
            [
                str(BIN / "dagster-graphql"), "--grpc-port", str(self.port), "--text",
                "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params)"
                " { __typename ... on PythonError { message } } }",
                "--variables",
                json.dumps({"params": {
                    "assetSelection": [{"path": list(key.path)} for key in keys],
                    "partitionNames": [week],
                }}),
            ],
            env=self.environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "LaunchBackfillSuccess" in output, output

    def requested(self, model: str) -> list[dg.DagsterRun]:
        """The runs that were asked for with a cause, retries included, oldest first."""
        runs = self.instance.get_runs()
        return [
            run
            for run in reversed(runs)
            if CAUSE_TAG in run.tags and assets_of(model).model in (run.asset_selection or ())
        ]

    def outcomes(self, models: Iterable[str]) -> dict[str, list[tuple[str, str, str]]]:
        """Cause, partition and status of each model's requested runs."""
        return {
            model: [
                (run.tags[CAUSE_TAG], run.tags["dagster/partition"], run.status.value)
                for run in self.requested(model)
            ]
            for model in models
        }

    def attempts(self, model: str) -> list[str]:
        """The weeks on which the training program was started."""
        file = self.home / f"{model}.attempts"
        return file.read_text().split() if file.exists() else []

    def skipped(self, name: str) -> str:
        """Why a sensor or a schedule asked for nothing at its latest tick."""
        [state] = [
            state for state in self.instance.all_instigator_state() if state.instigator_name == name
        ]
        ticks = self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
        return next((tick.skip_reason for tick in ticks if tick.skip_reason), "")

    def ticks(self, name: str) -> int:
        return sum(
            len(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))
            for state in self.instance.all_instigator_state()
            if state.instigator_name == name
        )

    def freshness(self, model: str) -> str:
        key = assets_of(model).model
        record = self.instance.get_freshness_state_records([key]).get(key)
        return record.freshness_state.value if record else "none"

    def log(self) -> str:
        return "\n".join(file.read_text() for file in self.home.glob("*.log"))


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("retraining")
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get() as instance:
            site = Site(home, instance, port)
            server = [
                str(BIN / "dagster"), "api", "grpc", "--python-file", str(TESTS / "retraining_location.py"),
                "--host", "127.0.0.1", "--port", str(port),
            ]  # fmt: skip
            with site.running(server, "server.log"):
                wait_until(lambda: answers(port), 60, pause=1, told=site.log)
                yield site


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


OLD, NEW, LATER = WEEKS[1], WEEKS[6], WEEKS[7:9]


def prepare(site: Site) -> None:
    """Every model is of an old week, and newer ones have landed since."""
    for model in MODELS:
        site.land(model, *WEEKS[:7])
        stale = model in ("both", "flaky", "broken", "busy")
        code = "0" if model in ("outdated", "edited") else "1"
        site.trained(model, OLD, timedelta(days=100 if stale else 0), code)
    for model, until in (("both", OLD), ("refused", WEEKS[-1])):
        site.steer(model, "decayed", until)
        site.decay_check_failed(model)
    site.steer("flaky", "failures", "2")
    site.steer("broken", "failures", "1000")
    site.steer("edited", "code", "2")  # the code server has loaded the code before
    site.steer("busy", "hold")
    site.backfill("busy", WEEKS[0])


ONE_EACH = {
    "both": [("freshness, decay", NEW, "SUCCESS")],
    "outdated": [("code", NEW, "SUCCESS")],
    "edited": [("code", NEW, "SUCCESS")],
    "refused": [("decay", NEW, "SUCCESS")],
    "expiring": [("freshness", NEW, "SUCCESS")],
    "awaited": [("freshness", NEW, "SUCCESS")],
    "flaky": [("freshness", NEW, status) for status in ("FAILURE", "FAILURE", "SUCCESS")],
    "healthy": [],
}


def test_each_cause_makes_one_run_whatever_happens_meanwhile(site: Site) -> None:
    prepare(site)
    daemon = ["run", "--grpc-port", str(site.port)]
    for point in ("before_creation", "before_launch", "after_launch"):
        program = [sys.executable, str(TESTS / "dying_daemon.py"), point, "--", *daemon]
        with site.running(program, "daemon.log") as process:
            assert process.wait(200) == -signal.SIGKILL, site.log()

    with site.running([str(BIN / "dagster-daemon"), *daemon], "daemon.log"):
        wait_until(
            lambda: site.outcomes(["expiring"])["expiring"] == ONE_EACH["expiring"],
            400,
            pause=1,
            told=site.log,
        )
        wait_until(lambda: site.freshness("expiring") == "PASS", 40, pause=1, told=site.log)
        wait_until(
            lambda: site.outcomes(ONE_EACH) == ONE_EACH,
            400,
            pause=1,
            told=lambda: site.outcomes(ONE_EACH),
        )
        assert site.ticks("busy_retraining") >= 2
        assert site.outcomes(["busy"]) == {"busy": []}
        assert "in progress" in site.skipped("busy_retraining")

        (site.home / "busy.hold").unlink()
        for model in ("both", "refused", "healthy"):
            site.land(model, *LATER)
        landed = {model: site.ticks(f"{model}_retraining") for model in ONE_EACH}
        later = {
            "busy": [("freshness", NEW, "SUCCESS")],
            "broken": [("freshness", NEW, "FAILURE")] * 4,
        }
        wait_until(
            lambda: site.outcomes(later) == later, 400, pause=1, told=lambda: site.outcomes(later)
        )
        reasons = {
            "healthy_retraining": "nothing is due",
            "refused_retraining": "cool-down: 2 of 4 periods",
            "expiring_retraining": "no period has landed after",
            "edited_retraining": "reload the code location",
            "broken_retraining": "The schedule asks again",
            "broken_retraining_backstop": "of its runs, 4 failed",
        }
        for name, reason in reasons.items():
            skipped = partial(site.skipped, name)
            wait_until(lambda: reason in skipped(), 200, pause=1, told=skipped)  # noqa: B023
        wait_until(
            lambda: all(site.ticks(f"{m}_retraining") >= landed[m] + 2 for m in ONE_EACH),
            200,
            pause=1,
            told=site.log,
        )

    assert site.outcomes(ONE_EACH | later) == ONE_EACH | later
    assert site.attempts("busy") == [WEEKS[0], NEW]
    for model, runs in ONE_EACH.items():
        assert site.attempts(model) == [NEW] * len(runs), model
