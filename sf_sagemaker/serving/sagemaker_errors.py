"""What SageMaker says when something of an endpoint is refused, missing, or there already."""

import re

from sf_sagemaker.aws import AccessDenied, AwsError, AwsUnavailable
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.serving.errors import HostUnavailable, InvalidEndpoint

_MISSING = re.compile(r"could not find|does not exist|not found", re.I)
_EXISTS = re.compile(r"already exist", re.I)
_BUSY = re.compile(r"cannot (update|delete) in-progress|is (currently )?being (updated|used)", re.I)


def not_found(error: AwsError) -> bool:
    """Whether the service knows nothing of that name; Describe says so as a ValidationException."""
    return error.code in ("ResourceNotFound", "ResourceNotFoundException") or (
        error.code == "ValidationException" and _MISSING.search(str(error)) is not None
    )


def exists_already(error: AwsError) -> bool:
    """Whether a thing of that name is there."""
    return error.code in ("ValidationException", "ResourceInUse", "ConflictException") and (
        _EXISTS.search(str(error)) is not None
    )


def is_busy(error: AwsError) -> bool:
    """Whether an endpoint is in a change that has to end first."""
    return error.code in ("ValidationException", "ResourceInUse", "ConflictException") and (
        _BUSY.search(str(error)) is not None
    )


def on_refusal(error: AwsError, role_arn: str) -> SfSagemakerError:
    """What a refused call means to the caller of a host."""
    text = str(error)
    if isinstance(error, AwsUnavailable):
        return HostUnavailable(text)
    if error.code == "ResourceLimitExceeded":
        return InvalidEndpoint(
            f"{text} Ask for a higher quota in Service Quotas (Amazon SageMaker, endpoint usage), or "
            "choose another endpoint.instance_type"
        )
    denied = isinstance(error, AccessDenied)
    if (denied and "iam:PassRole" in text) or (
        error.code == "ValidationException" and "assume" in text.lower() and "role" in text.lower()
    ):
        return InvalidEndpoint(
            f"{text} The caller needs iam:PassRole for {role_arn}, and that role must trust "
            "sagemaker.amazonaws.com: see deploy/iam, and SF_SAGEMAKER_ROLE_ARN"
        )
    if error.code in ("ValidationException", "ParamValidation"):
        return InvalidEndpoint(text)
    return error
