"""Training on SageMaker under a real webserver, daemon and run launcher: cancelled, and retried."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
import pytest

from locations import REPOSITORY
from standins.sagemaker.service import SageMakerService
from test_webserver import graphql
from training.sagemaker_steps import Steps
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TESTS = REPOSITORY / "tests"

LAUNCH = """mutation($asset: String!, $tags: [ExecutionTag!]) { launchRun(executionParams: {
    selector: {repositoryLocationName: "sagemaker_location.py", repositoryName: "__repository__",
        jobName: "__ASSET_JOB", assetSelection: [{path: [$asset]}]},
    executionMetadata: {tags: $tags}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"


@dataclass
class Site:
    """A Dagster deployment whose address is `address`, and the steps that it runs."""

    address: str
    steps: Steps
    instance: dg.DagsterInstance

    def launch(self, asset: str, **tags: str) -> str:
        given = [{"key": f"dagster/{name}", "value": value} for name, value in tags.items()]
        launched = graphql(self.address, LAUNCH, asset=asset, tags=given)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def statuses(self, asset: str) -> list[str]:
        """Of the asset's runs, from the first to the last retry."""
        key = dg.AssetKey(asset)
        runs = reversed(self.instance.get_runs())
        return [run.status.value for run in runs if key in (run.asset_selection or ())]


@pytest.fixture(scope="module")
def site(
    shared_service: SageMakerService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("daemon")
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    unique = uuid.uuid4().hex[:8]
    bucket = shared_service.create_bucket(f"training-data-{unique}")
    steps = Steps(home, bucket, shared_service.role_arn, f"m_{unique}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        **shared_service.environment,
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": f"{REPOSITORY}:{TESTS}",
        "STEPS": json.dumps(asdict(steps), default=str),
    }
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("dagster")), "dev",
            "--python-file", str(TESTS / "training" / "sagemaker_location.py"),
            "--host", "127.0.0.1", "--port", str(port),
        ],
        cwd=home,
        env={**os.environ, **variables},
        stdout=(home / "dev.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(home))
            wait_until(lambda: answers(port), 120)
            with dg.DagsterInstance.get() as instance:
                yield Site(f"http://127.0.0.1:{port}", steps, instance)
    finally:
        steps.go.touch()
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def created(service: SageMakerService) -> list[str]:
    return [job.name for job in service.jobs.all()]


def test_a_run_cancelled_in_the_ui_stops_its_job(site: Site, service: SageMakerService) -> None:
    run_id = site.launch("waiting", max_retries="2")
    wait_until(lambda: service.calls.count("GetLogEvents") > 2, 90)
    terminated = graphql(site.address, TERMINATE, id=run_id)["terminateRun"]
    assert terminated == {"__typename": "TerminateRunSuccess"}
    wait_until(lambda: service.calls.count("StopTrainingJob"), 5)
    wait_until(lambda: site.statuses("waiting") == ["CANCELED"], 30)
    (name,) = created(service)
    assert service.jobs.wait(name).status == "Stopped"
    assert not site.instance.get_latest_materialization_event(dg.AssetKey("waiting"))


def test_run_retries_try_what_may_pass_again_and_nothing_else(
    site: Site, service: SageMakerService
) -> None:
    site.steps.go.touch()
    before = len(created(service))
    site.launch("failing", max_retries="2")
    wait_until(lambda: site.statuses("failing") == ["FAILURE"], 90)

    service.faults.capacity_error(times=4)  # one more than a run bears
    site.launch("unlucky", max_retries="2")
    wait_until(lambda: site.statuses("unlucky") == ["FAILURE", "SUCCESS"], 120)
    # The daemon looks at failures in their order: it has decided on the first long ago.
    assert site.statuses("failing") == ["FAILURE"]
    failing, *unlucky = created(service)[before:]
    assert "failing" in failing
    assert [name.rpartition("-")[2] for name in unlucky] == ["1", "2", "3", "4", "5"]
