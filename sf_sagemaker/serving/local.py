"""Endpoints as processes of this machine, under SageMaker's inference contract, on 127.0.0.1.

`deploy` lays out the program and the model, and leaves the rest to a supervisor (`local_supervisor`)
that lives on when the caller ends. Everything else here reads the endpoint's folder (`local_folder`), so
any process on this machine can look at an endpoint, deploy to it or stop it.
"""

import http.client
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sf_sagemaker.containers.serving import ANSWER_SECONDS, serving_files
from sf_sagemaker.containers.serving.application import VERSION_HEADER
from sf_sagemaker.processes import start_supervisor
from sf_sagemaker.serving.endpoint import (
    Deployment,
    EndpointDescription,
    EndpointOptions,
    EndpointState,
    FetchArtifact,
    Reply,
    Review,
    ServedModel,
    check_name,
)
from sf_sagemaker.serving.errors import (
    DeploymentFailed,
    EndpointNotFound,
    EndpointStopped,
    EndpointUnreachable,
)
from sf_sagemaker.serving.local_folder import DeploymentRecord, EndpointFolder, EndpointStatus
from sf_sagemaker.serving.local_supervisor import END_SECONDS
from sf_sagemaker.training.job import Program

_SUPERVISOR = "sf_sagemaker.serving.local_supervisor"
_HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
_END_SECONDS = END_SECONDS + 10  # of an endpoint, whose servers have END_SECONDS


class LocalEndpointHost:
    """Runs each endpoint as a supervised server process of this machine.

    `root` is the folder of all endpoints, `python` the interpreter of the servers, and `environment`
    is for each of them.
    """

    def __init__(
        self,
        root: Path,
        fetch_artifact: FetchArtifact,
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root).absolute()
        self.python = python
        self.environment = dict(environment or {})
        self._fetch_artifact = fetch_artifact

    def deploy(
        self, name: str, model: ServedModel, options: EndpointOptions, *, start: bool = True
    ) -> Deployment:
        """Puts a model behind the endpoint; returns when only it answers.

        Raises InvalidEndpoint; EndpointStopped; DeploymentFailed, the model before it being in service
        still; and what fetching the artifact raises.
        """
        folder = EndpointFolder(self.root / check_name(name))
        program = Program(*serving_files(model.program))
        with folder.deploying():
            if not start and self._is_stopped(folder):
                raise EndpointStopped(name)
            if self._serves(folder, model, program, options):
                return Deployment(self.describe(name), changed=False)
            number = folder.next_number()
            place = folder.deployment(number)
            program.copy_to(place / "code")
            artifact = self._fetch_artifact(model.training_job, place / "model")
            record = DeploymentRecord(
                version=model.label,
                program_digest=program.digest,
                python=self.python,
                entry_point=program.entry_point,
                model=str(artifact),
                port=options.port or 0,
                start_timeout=options.start_timeout.total_seconds(),
                environment=self.environment,
            )
            folder.ask_for(number, record)
            _ensure_supervisor(folder)
            status = self._wait(folder, number)
            if options.port is None and status.port is not None:
                folder.keep_port(status.port)
        return Deployment(self.describe(name), changed=True)

    def review(self, model: ServedModel) -> Review | None:
        """None: on this machine nobody is asked."""
        return None

    def describe(self, name: str) -> EndpointDescription:
        folder = self._existing(name)
        status = self._status(folder)
        answers = status.number is not None
        down = status.state in (EndpointState.FAILED, EndpointState.RESTARTING)
        return EndpointDescription(
            name=name,
            state=status.state,
            address=f"http://{_HOST}:{status.port}/invocations" if status.port else None,
            version=status.version,
            since=datetime.fromisoformat(status.since) if status.since else None,
            failure=(status.lost or status.failure) if down else status.failure,
            restarts=status.restarts,
            log=str(folder.server_log(status.number or 0) if answers else folder.supervisor_log),
        )

    def invoke(self, name: str, body: bytes, *, content_type: str = "application/json") -> Reply:
        port = self._status(self._existing(name)).port
        if port is None:
            raise EndpointUnreachable(f"endpoint {name} has never answered: deploy a model to it")
        connection = http.client.HTTPConnection(_HOST, port, timeout=ANSWER_SECONDS)
        try:
            headers = {"Content-Type": content_type, "Connection": "close"}
            connection.request("POST", "/invocations", body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.read(), response.getheader(VERSION_HEADER))
        except (OSError, http.client.HTTPException) as error:
            raise EndpointUnreachable(
                f"endpoint {name} on {_HOST}:{port} doesn't answer ({error}): deploy to it again"
            ) from error
        finally:
            connection.close()

    def names(self) -> list[str]:
        """The endpoints that were deployed here, whether or not they answer."""
        return sorted(status.parent.name for status in self.root.glob("*/status.json"))

    def stop(self, name: str) -> None:
        """Ends the endpoint, and waits until it has; it stays stopped until somebody deploys to it.

        Raises EndpointNotFound, EndpointUnreachable.
        """
        folder = self._existing(name)
        folder.request_stop()
        deadline = time.monotonic() + _END_SECONDS
        while folder.alive():
            if time.monotonic() > deadline:
                raise EndpointUnreachable(
                    f"endpoint {name} has not ended within {_END_SECONDS:g} s of being told to; "
                    f"{folder.supervisor_log} may say why"
                )
            time.sleep(_POLL_SECONDS)

    def _existing(self, name: str) -> EndpointFolder:
        folder = EndpointFolder(self.root / check_name(name))
        if not (folder.path / "status.json").exists():
            raise EndpointNotFound(f"no endpoint {name} in {self.root}: nothing was deployed to it")
        return folder

    def _status(self, folder: EndpointFolder) -> EndpointStatus:
        """The status by the supervisor's account, unless there is no supervisor any more."""
        supervised = folder.supervised()
        status = folder.status()
        if supervised or status.state is EndpointState.STOPPED:
            return status
        if folder.stop_requested():
            return replace(status, state=EndpointState.STOPPED, server=None)
        return status if status.state is EndpointState.FAILED else _lost(folder, status)

    def _is_stopped(self, folder: EndpointFolder) -> bool:
        try:
            return self._status(folder).state is EndpointState.STOPPED
        except FileNotFoundError:
            return True

    def _serves(
        self,
        folder: EndpointFolder,
        model: ServedModel,
        program: Program,
        options: EndpointOptions,
    ) -> bool:
        """Whether that very model answers already, by that very program, where it should."""
        try:
            status = self._status(folder)
        except FileNotFoundError:
            return False
        if status.state is not EndpointState.IN_SERVICE or status.number is None:
            return False
        record = folder.record(status.number)
        return (record.version, record.program_digest) == (model.label, program.digest) and (
            options.port in (None, status.port)
        )

    def _wait(self, folder: EndpointFolder, number: int) -> EndpointStatus:
        """Waits until the deployment alone answers. Raises DeploymentFailed."""
        while True:
            supervised = folder.supervised()
            try:
                status = folder.status()
            except FileNotFoundError:
                status = EndpointStatus()
            if status.number == number and status.state is EndpointState.IN_SERVICE:
                return status
            if status.failed == number:
                raise DeploymentFailed(
                    f"endpoint {folder.path.name}: {status.failure}. {_what_answers(status)}"
                )
            if not supervised:
                raise DeploymentFailed(
                    f"endpoint {folder.path.name}: its supervisor ended before it had deployed; "
                    f"{folder.supervisor_log} may say why. Nothing answers: deploy again"
                )
            time.sleep(_POLL_SECONDS)


def _lost(folder: EndpointFolder, status: EndpointStatus) -> EndpointStatus:
    reason = f"its supervisor is gone, and its server with it; {folder.supervisor_log} may say why"
    return EndpointStatus(
        state=EndpointState.FAILED,
        number=status.number,
        version=status.version,
        since=status.since,
        port=status.port,
        restarts=status.restarts,
        lost=reason,
    )


def _is_ending(folder: EndpointFolder) -> bool:
    """Whether the endpoint's supervisor takes no deployment any more."""
    status = folder.status()
    nothing_to_serve = status.state is EndpointState.FAILED and status.number is None
    stopped = folder.stop_requested() or status.state is EndpointState.STOPPED
    return stopped or nothing_to_serve


def _what_answers(status: EndpointStatus) -> str:
    if status.number is None:
        return "Nothing answers: mend the cause and deploy again"
    return f"Version {status.version} answers as before"


def _ensure_supervisor(folder: EndpointFolder) -> None:
    """Starts a supervisor in a session of its own, unless one lives; returns once it does."""
    deadline = time.monotonic() + _END_SECONDS
    while (lock := folder.lock()) is None:
        if folder.supervised() and not _is_ending(folder):
            return
        # What was before is ending: the lock is free when the last of it is gone.
        if time.monotonic() > deadline:
            raise DeploymentFailed(
                f"endpoint {folder.path.name}: what served it before doesn't end; see "
                f"{folder.supervisor_log}, end those processes and deploy again"
            )
        time.sleep(_POLL_SECONDS)
    try:
        if folder.stop_requested():
            # Noted where its supervisor didn't live to, so that the new one doesn't serve what was stopped.
            folder.write_status(replace(folder.status(), state=EndpointState.STOPPED, server=None))
            folder.clear_stop()
        ended = start_supervisor(_SUPERVISOR, folder.path, lock, folder.supervisor_log)
    finally:
        os.close(lock)
    if ended != 0:
        raise DeploymentFailed(
            f"the supervisor of endpoint {folder.path.name} ended with code {ended}; "
            f"{folder.supervisor_log} says why. Nothing answers"
        )
