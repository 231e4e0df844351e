"""A local endpoint: deployed, replaced, killed, failed, stopped."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from serving.models import ROW, Artifacts
from sf_sagemaker.serving.endpoint import (
    Deployment,
    EndpointOptions,
    EndpointState,
    Reply,
    ServedModel,
)
from sf_sagemaker.serving.errors import (
    DeploymentFailed,
    EndpointNotFound,
    EndpointStopped,
    EndpointUnreachable,
    InvalidEndpoint,
)
from sf_sagemaker.serving.following import Standing, cause_of, decide
from sf_sagemaker.serving.local import LocalEndpointHost
from sf_sagemaker.serving.local_folder import EndpointFolder
from waiting import wait_until

pytestmark = pytest.mark.slow

BODY = json.dumps({"instances": [ROW]}).encode()


def deploy(
    host: LocalEndpointHost,
    version: int,
    job: str,
    options: EndpointOptions | None = None,
    *,
    start: bool = True,
) -> Deployment:
    model = ServedModel("houses", version, job, "", "xgboost")
    return host.deploy("houses", model, options or EndpointOptions(), start=start)


def ask(host: LocalEndpointHost) -> Reply:
    return host.invoke("houses", BODY)


def folder_of(host: LocalEndpointHost) -> EndpointFolder:
    return EndpointFolder(host.root / "houses")


def with_python(
    host: LocalEndpointHost, artifacts: Artifacts, folder: Path, code: str
) -> LocalEndpointHost:
    """The same host, whose servers run `code` before their program."""
    folder.mkdir()
    (folder / "first.py").write_text(
        "import runpy, sys, time\nfrom pathlib import Path\n"
        "sys.argv = sys.argv[1:]\nsys.path[0] = '.'\n"
        f"{code}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/first.py "$@"\n')
    python.chmod(0o755)
    return LocalEndpointHost(
        host.root, artifacts.fetch, python=str(python), environment=host.environment
    )


def kill(process: int | None) -> None:
    assert process is not None
    os.kill(process, signal.SIGKILL)


def test_a_model_is_served_and_replaced_at_the_same_address(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("job-1")
    artifacts.add("job-2", level=0.5)
    first = deploy(host, 1, "job-1")
    assert first.changed
    assert first.description.state is EndpointState.IN_SERVICE
    assert first.description.version == "1/job-1"
    old = ask(host)
    assert (old.status, old.version) == (200, "1/job-1")

    assert not deploy(host, 1, "job-1").changed
    second = deploy(host, 2, "job-2")
    assert second.changed
    assert second.description.address == first.description.address
    new = ask(host)
    assert (new.status, new.version) == (200, "2/job-2")
    prices = [json.loads(r.body)["predictions"][0]["prediction"] for r in (old, new)]
    assert prices[1] == pytest.approx(1.65 * prices[0], rel=0.1)
    # What is no longer served takes no room.
    assert folder_of(host).numbers() == [2]

    host.stop("houses")
    assert host.describe("houses").state is EndpointState.STOPPED
    with pytest.raises(EndpointUnreachable, match="doesn't answer"):
        ask(host)
    again = deploy(host, 2, "job-2")
    assert again.changed
    assert again.description.address == first.description.address


def test_a_deployment_that_fails_leaves_the_one_before_it(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("good")
    model = artifacts.add("cut-short") / "model.ubj"
    model.write_bytes(model.read_bytes()[:500])
    golden = json.loads((artifacts.add("changed") / "model-card.json").read_text())["golden_rows"]
    golden[0]["prediction"] *= 2
    artifacts.change_card("changed", golden_rows=golden)
    artifacts.add("of-another-version")
    artifacts.change_card("of-another-version", library_versions={"xgboost": "1.7.6"})

    with pytest.raises(DeploymentFailed, match=r"not a whole model.*Nothing answers"):
        deploy(host, 1, "cut-short")
    deploy(host, 2, "good")
    for job, cause in {
        "cut-short": "not a whole model",
        "changed": "golden rows",
        "of-another-version": "xgboost 1.7.6",
    }.items():
        with pytest.raises(DeploymentFailed, match=f"{cause}.*Version 2/good answers as before"):
            deploy(host, 3, job)
        description = host.describe("houses")
        assert description.state is EndpointState.IN_SERVICE
        assert cause in (description.failure or "")
        assert ask(host).version == "2/good"
    with pytest.raises(DeploymentFailed, match=r"wasn't ready within 0\.1 s"):
        deploy(host, 3, "good", EndpointOptions(start_timeout=timedelta(seconds=0.1)))
    assert ask(host).version == "2/good"
    artifacts.add("better", level=0.1)
    deploy(host, 4, "better")
    assert host.describe("houses").failure is None
    assert ask(host).version == "4/better"


def test_a_server_that_is_killed_is_started_anew(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("job-1")
    deploy(host, 1, "job-1")
    before = folder_of(host).status().server
    kill(before)
    # A request that comes while nothing serves waits for the one that will.
    assert ask(host).version == "1/job-1"
    wait_until(lambda: host.describe("houses").state is EndpointState.IN_SERVICE)
    description = host.describe("houses")
    assert description.restarts == 1
    assert folder_of(host).status().server not in (None, before)


def test_a_server_that_is_killed_while_a_new_model_loads_is_started_anew(
    host: LocalEndpointHost, artifacts: Artifacts, tmp_path: Path
) -> None:
    artifacts.add("job-1")
    artifacts.add("job-2")
    deploy(host, 1, "job-1")
    loaded = tmp_path / "loaded"
    slow = with_python(
        host,
        artifacts,
        tmp_path / "slow",
        f"while not Path({str(loaded)!r}).exists(): time.sleep(0.05)",
    )
    with ThreadPoolExecutor(1) as others:
        deployment = others.submit(deploy, slow, 2, "job-2")
        try:
            wait_until(lambda: host.describe("houses").state is EndpointState.UPDATING)
            kill(folder_of(host).status().server)
            assert ask(host).version == "1/job-1"
            wait_until(lambda: host.describe("houses").state is EndpointState.UPDATING)
            assert host.describe("houses").restarts == 1
        finally:
            loaded.touch()
        assert deployment.result().changed
    description = host.describe("houses")
    assert (description.version, description.restarts) == ("2/job-2", 0)
    assert ask(host).version == "2/job-2"


def test_a_new_model_that_is_ready_first_makes_the_restart_needless(
    host: LocalEndpointHost, artifacts: Artifacts, tmp_path: Path
) -> None:
    artifacts.add("job-1")
    artifacts.add("job-2")
    slow, loaded = tmp_path / "slow", tmp_path / "loaded"
    first = with_python(
        host, artifacts, tmp_path / "first", f"while Path({str(slow)!r}).exists(): time.sleep(0.05)"
    )
    second = with_python(
        host,
        artifacts,
        tmp_path / "second",
        f"while not Path({str(loaded)!r}).exists(): time.sleep(0.05)",
    )
    deploy(first, 1, "job-1")
    slow.touch()
    with ThreadPoolExecutor(1) as others:
        deployment = others.submit(deploy, second, 2, "job-2")
        try:
            wait_until(lambda: host.describe("houses").state is EndpointState.UPDATING)
            kill(folder_of(host).status().server)
            # Nobody answers, and that is what it says.
            wait_until(lambda: host.describe("houses").state is EndpointState.RESTARTING)
        finally:
            loaded.touch()
        assert deployment.result().changed
    assert ask(host).version == "2/job-2"
    assert folder_of(host).numbers() == [2]


def test_an_answer_that_takes_most_of_a_minute_outlives_its_model(
    host: LocalEndpointHost, artifacts: Artifacts, tmp_path: Path
) -> None:
    artifacts.add("job-1")
    artifacts.add("job-2")
    held, asked = tmp_path / "held", tmp_path / "asked"
    slow = with_python(
        host,
        artifacts,
        tmp_path / "slow",
        f"""
from sf_sagemaker.containers.serving.xgboost_handler import XGBoostHandler

def late(self, *arguments, answer=XGBoostHandler.answer):
    while Path({str(held)!r}).exists():
        Path({str(asked)!r}).touch()
        time.sleep(0.05)
    return answer(self, *arguments)

XGBoostHandler.answer, XGBoostHandler.inline_bytes = late, 0
""",
    )
    deploy(slow, 1, "job-1")
    held.touch()
    with ThreadPoolExecutor(2) as others:
        try:
            reply = others.submit(ask, host)
            wait_until(asked.exists)
            deployment = others.submit(deploy, host, 2, "job-2")
            wait_until(lambda: host.describe("houses").version == "2/job-2")
            # Longer than SageMaker leaves a container.
            answered = time.monotonic() + 31
            wait_until(lambda: time.monotonic() > answered, seconds=40)
            assert not deployment.done()
        finally:
            held.unlink()
        assert (reply.result().status, reply.result().version) == (200, "1/job-1")
        assert deployment.result().description.state is EndpointState.IN_SERVICE


def test_a_server_that_hangs_is_killed_and_started_anew(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("job-1")
    deploy(host, 1, "job-1")
    hung = folder_of(host).status().server
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: host.describe("houses").restarts == 1, seconds=40)
    assert "missed 3 pings" in (folder_of(host).status().lost or "")
    wait_until(lambda: host.describe("houses").state is EndpointState.IN_SERVICE)
    assert ask(host).status == 200


def test_a_supervisor_that_is_killed_is_reported_and_replaced(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("job-1")
    bad = artifacts.add("bad") / "model.ubj"
    bad.write_bytes(b"")
    address = deploy(host, 1, "job-1").description.address
    kill(folder_of(host).status().supervisor)
    wait_until(lambda: host.describe("houses").state is EndpointState.FAILED)
    assert "its supervisor is gone" in (host.describe("houses").failure or "")
    wait_until(lambda: not folder_of(host).alive())  # its server ends with it
    # Even a deployment that fails brings back what was served before.
    with pytest.raises(DeploymentFailed):
        deploy(host, 2, "bad")
    wait_until(lambda: host.describe("houses").state is EndpointState.IN_SERVICE)
    assert ask(host).version == "1/job-1"
    kill(folder_of(host).status().supervisor)
    wait_until(lambda: host.describe("houses").state is EndpointState.FAILED)
    again = deploy(host, 1, "job-1")
    assert again.changed
    assert again.description.address == address
    assert ask(host).version == "1/job-1"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_an_endpoint_that_is_stopped_when_it_is_down_stays_stopped(
    host: LocalEndpointHost, artifacts: Artifacts, end: signal.Signals
) -> None:
    artifacts.add("job-1")
    (artifacts.add("bad") / "model.ubj").write_bytes(b"")
    address = deploy(host, 1, "job-1").description.address
    supervisor = folder_of(host).status().supervisor
    assert supervisor is not None
    os.kill(supervisor, end)
    wait_until(lambda: not folder_of(host).alive())
    assert host.describe("houses").state is EndpointState.FAILED

    host.stop("houses")
    stopped = host.describe("houses")
    assert stopped.state is EndpointState.STOPPED
    standing = Standing("1/job-1", stopped)
    assert not decide(standing, cause_of(standing), running=False, failed_runs=0).deploy

    # A deployment that fails doesn't bring back what was stopped.
    with pytest.raises(DeploymentFailed, match="Nothing answers"):
        deploy(host, 2, "bad")
    with pytest.raises(EndpointUnreachable):
        ask(host)
    again = deploy(host, 1, "job-1")
    assert again.description.state is EndpointState.IN_SERVICE
    assert again.description.address == address
    assert ask(host).version == "1/job-1"


def test_ports(host: LocalEndpointHost, artifacts: Artifacts) -> None:
    artifacts.add("job-1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DeploymentFailed, match=rf"127\.0\.0\.1:{port}: .*in use"):
            deploy(host, 1, "job-1", EndpointOptions(port=port))
    moved = deploy(host, 1, "job-1", EndpointOptions(port=port))
    assert moved.description.address == f"http://127.0.0.1:{port}/invocations"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other = probe.getsockname()[1]
    assert deploy(host, 1, "job-1", EndpointOptions(port=other)).changed
    assert ask(host).status == 200
    with socket.socket() as closed, pytest.raises(ConnectionRefusedError):
        closed.connect(("127.0.0.1", port))


def test_an_endpoint_that_names_no_port_keeps_the_one_that_it_got(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("job-1")
    address = deploy(host, 1, "job-1").description.address
    others = ServedModel("others", 1, "job-1", "", "xgboost")
    another = host.deploy("others", others, EndpointOptions()).description.address
    assert address is not None
    assert another is not None
    first, second = (int(found.split(":")[2].split("/")[0]) for found in (address, another))
    assert 8090 <= first < second

    host.stop("houses")
    with pytest.raises(EndpointStopped, match="materialize it to start it again"):
        deploy(host, 1, "job-1", start=False)
    assert deploy(host, 1, "job-1").description.address == address
    host.stop("houses")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first))
        taken.listen()
        moved = deploy(host, 1, "job-1").description.address
        assert moved not in (None, address, another)
        assert ask(host).status == 200


def test_an_endpoint_whose_folder_is_deleted_ends(
    host: LocalEndpointHost, artifacts: Artifacts
) -> None:
    artifacts.add("job-1")
    deploy(host, 1, "job-1")
    server = folder_of(host).status().server
    assert server is not None
    shutil.rmtree(host.root)
    wait_until(lambda: not _lives(server))


def test_names_and_endpoints_that_are_none(host: LocalEndpointHost) -> None:
    with pytest.raises(EndpointNotFound, match="nothing was deployed"):
        host.describe("houses")
    with pytest.raises(InvalidEndpoint, match="house_prices"):
        host.describe("house_prices")
    with pytest.raises(InvalidEndpoint):
        host.describe("../houses")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
