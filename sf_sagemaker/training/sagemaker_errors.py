"""What SageMaker says when a job can't be run or has failed, and whether trying again may help."""

import re

from sf_sagemaker.aws import AccessDenied, AwsError, AwsUnavailable
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.platform import FailureKind, JobRefused, PlatformUnavailable


class QuotaExceeded(JobRefused):
    """A job that needs more instances than the account's quota has, whoever uses them now."""


class RoleNotUsable(JobRefused):
    """An execution role that the caller may not pass, or that SageMaker can't assume."""


class ImageNotUsable(JobRefused):
    """A container image that isn't there, or is for another processor architecture."""


_MISSING = re.compile(r"not found|could not find", re.I)
_LIMIT = re.compile(r"is (?P<most>\d+) Instances.* request delta of (?P<wanted>\d+) Instances")
# FailureReason begins with the kind of error; what follows may be the program's own words.
_KINDS = (
    (re.compile(r"AlgorithmError\b"), FailureKind.ALGORITHM),
    (re.compile(r"\w*(Insufficient\w*)?Capacity\w*|Insufficient capacity", re.I), FailureKind.CAPACITY),
    (re.compile(r"InternalServerError|InternalFailure|InternalError|ServiceUnavailable|Throttling"),
     FailureKind.INTERNAL),
    (re.compile(r"(Client|Validation|Resource)\w*(Error|Exception|Exceeded)"), FailureKind.CONFIGURATION),
)  # fmt: skip


def failure_kind(reason: str) -> FailureKind | None:
    """The kind of failure that a FailureReason tells of; None for one that isn't known."""
    for pattern, kind in _KINDS:
        if pattern.match(reason):
            return kind
    return None


def not_found(error: AwsError) -> bool:
    """Whether the service knows no job of that name; Describe says so as a ValidationException."""
    return error.code in ("ResourceNotFound", "ResourceNotFoundException") or (
        error.code == "ValidationException" and _MISSING.search(str(error)) is not None
    )


def on_creation(
    error: AwsError,
    role_arn: str,
    use: str = "training job usage",
    setting: str = "compute.instance_type",
) -> SfSagemakerError:
    """What a refused creation of a job means to the caller of a platform.

    `use` is what the quota for such jobs is called, `setting` what chooses their instances.
    """
    text = str(error)
    if isinstance(error, AwsUnavailable):
        return PlatformUnavailable(text)
    if error.code == "ResourceLimitExceeded":
        limit = _LIMIT.search(text)
        if limit is not None and int(limit["most"]) >= int(limit["wanted"]):
            return PlatformUnavailable(f"{text} Other jobs use the instances now")
        return QuotaExceeded(
            f"{text} Ask for a higher quota in Service Quotas (Amazon SageMaker, {use}), or choose "
            f"another {setting}"
        )
    denied = isinstance(error, AccessDenied)
    if (denied and "iam:PassRole" in text) or (
        error.code == "ValidationException" and "assume" in text.lower() and "role" in text.lower()
    ):
        return RoleNotUsable(
            f"{text} The caller needs iam:PassRole for {role_arn}, and that role must trust "
            "sagemaker.amazonaws.com: see deploy/iam, and SF_SAGEMAKER_ROLE_ARN"
        )
    if denied or error.code in ("ValidationException", "ParamValidation", "ResourceNotFound"):
        return JobRefused(text)
    return error


def with_remedy(reason: str | None, kind: FailureKind | None, setting: str) -> str | None:
    """Why a job failed, and the attribute that chooses its instances where none could be had."""
    return f"{reason} ({setting} chooses it)" if kind is FailureKind.CAPACITY else reason
