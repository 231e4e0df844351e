"""What can be wrong with an endpoint."""

from collections.abc import Sequence

from sf_sagemaker.errors import SfSagemakerError


class ServingError(SfSagemakerError):
    """The root of this room's errors."""


class InvalidEndpoint(ServingError):
    """A name or a setting that no endpoint can have."""


class EndpointNotFound(ServingError):
    """No endpoint of that name was ever deployed, or it was deleted."""


class EndpointUnreachable(ServingError):
    """An endpoint that doesn't answer."""


class HostUnavailable(ServingError):
    """A host that is throttling, in trouble or out of reach: a later call may succeed."""


class DeploymentFailed(ServingError):
    """A model that couldn't be put behind an endpoint; the message says what answers instead."""


class EndpointStopped(DeploymentFailed):
    """An endpoint that isn't there any more, and isn't to be started again."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"endpoint {name} was stopped meanwhile, and stays so: materialize it to start it again"
        )


class ApprovalPending(DeploymentFailed):
    """A model that a person has to approve first; the message says where."""


class ModelRejected(DeploymentFailed):
    """A model that a person has rejected."""


class RolledBack(DeploymentFailed):
    """A model that answered for a while, until `alarms` rang. `serving` labels what answers again."""

    def __init__(self, message: str, alarms: Sequence[str], serving: str | None) -> None:
        super().__init__(message)
        self.alarms = tuple(alarms)
        self.serving = serving


class NoChampion(ServingError):
    """A model that has no champion to serve or to predict with."""
