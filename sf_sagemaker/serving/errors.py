"""What can be wrong with an endpoint."""

from sf_sagemaker.errors import SfSagemakerError


class ServingError(SfSagemakerError):
    """The root of this room's errors."""


class InvalidEndpoint(ServingError):
    """A name or a setting that no endpoint can have."""


class EndpointNotFound(ServingError):
    """No endpoint of that name was ever deployed, or it was deleted."""


class EndpointUnreachable(ServingError):
    """An endpoint that doesn't answer."""


class DeploymentFailed(ServingError):
    """A model that couldn't be put behind an endpoint; the message says what answers instead."""


class NoChampion(ServingError):
    """A model that has no champion to serve or to predict with."""
