"""The role of an endpoint host: puts a trained model behind an address, and keeps it answering.

An endpoint has a name and an address that stay, whichever model answers. Deploying replaces the model
without failing a request; where the new one doesn't come up or doesn't answer its golden rows, the old
one goes on.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from sf_sagemaker.serving.errors import InvalidEndpoint
from sf_sagemaker.serving.hosting import Hosting

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # CreateEndpoint, SageMaker API reference


# Unpacks a training job's model below a folder and gives the folder that holds it; what
# TrainingPlatform.fetch_artifact does.
FetchArtifact = Callable[[str, Path], Path]


@dataclass(frozen=True)
class ServedModel:
    """A model to serve: version `version` of the promotion log, trained by `training_job`."""

    model: str
    version: int
    training_job: str
    artifact_uri: str
    program: Literal["xgboost", "llm"]

    @property
    def label(self) -> str:
        """What its answers carry in their header."""
        return model_label(self.version, self.training_job)


@dataclass(frozen=True)
class EndpointOptions:
    """How an endpoint is run.

    `port` is a local endpoint's; without it, the first free one from 8090 on, which it keeps unless
    another process has taken it meanwhile.

    A model that hasn't answered its golden rows within `start_timeout` counts as failed. `hosting` is
    for a host that has machines of its own.
    """

    port: int | None = None
    start_timeout: timedelta = timedelta(minutes=5)
    hosting: Hosting = field(default_factory=Hosting)


class EndpointState(StrEnum):
    """How an endpoint is. `UPDATING` and `IN_SERVICE` answer; `RESTARTING` will in a moment."""

    STARTING = "starting"
    IN_SERVICE = "in service"
    UPDATING = "updating"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class EndpointDescription:
    """An endpoint now. `version` is the label of the model that answers, since `since`.

    `address` is where requests go. `failure` says why it is `FAILED`, or why the newest deployment was
    given up while the model before it still answers. `restarts` counts unplanned ones of this model.
    `page` is where a host shows the endpoint, and `log` where what its servers print is.
    """

    name: str
    state: EndpointState
    address: str | None
    version: str | None
    since: datetime | None
    failure: str | None = None
    restarts: int = 0
    log: str | None = None
    page: str | None = None


@dataclass(frozen=True)
class Deployment:
    """What deploying did. `changed` is False where the endpoint served that very model already.

    `details` are what else a host knows about it, by name.
    """

    description: EndpointDescription
    changed: bool
    details: Mapping[str, str] = field(default_factory=dict)


class Approval(StrEnum):
    """What was said about putting a model into production."""

    APPROVED = "approved"
    PENDING = "pending"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Review:
    """What a person said about deploying a model, and where: `place` names it, `remark` is theirs."""

    approval: Approval
    place: str
    remark: str = ""


@dataclass(frozen=True)
class Reply:
    """An endpoint's answer to a request, whatever its status; `version` labels who gave it."""

    status: int
    body: bytes
    version: str | None


class EndpointHost(Protocol):
    """Runs endpoints by name. An endpoint outlives the process that deployed it."""

    def deploy(
        self, name: str, model: ServedModel, options: EndpointOptions, *, start: bool = True
    ) -> Deployment:
        """Puts a model behind the endpoint; returns when only it answers.

        An endpoint that was stopped, or isn't there, is started unless `start` is False. Raises
        DeploymentFailed, with the model before it still in service, EndpointStopped, ApprovalPending
        and ModelRejected before anything is deployed, InvalidEndpoint and HostUnavailable.
        """
        ...

    def review(self, model: ServedModel) -> Review | None:
        """What was said about deploying a model; None where nobody is asked, or nobody was yet."""
        ...

    def describe(self, name: str) -> EndpointDescription:
        """The endpoint's state now. Raises EndpointNotFound."""
        ...

    def invoke(self, name: str, body: bytes, *, content_type: str = "application/json") -> Reply:
        """Asks the endpoint as any client does. Raises EndpointNotFound, EndpointUnreachable."""
        ...

    def stop(self, name: str) -> None:
        """Ends the endpoint; the requests that it has are answered. Raises EndpointNotFound."""
        ...


def model_label(version: int, training_job: str) -> str:
    """The label of the model that a version of the promotion log is."""
    return f"{version}/{training_job}"


def training_job_of(label: str) -> str:
    """The training job in a model's label."""
    return label.partition("/")[2]


def endpoint_name(model: str) -> str:
    """The name of a model's endpoint."""
    return model.replace("_", "-")


def check_name(name: str) -> str:
    """The name. Raises InvalidEndpoint for one that SageMaker would refuse."""
    if not _NAME.fullmatch(name):
        raise InvalidEndpoint(
            f"endpoint name {name!r}: expected up to 63 letters, digits and single hyphens"
        )
    return name
