"""Access to AWS: boto3's clients, made when they are first used, and what they can answer.

Region, credentials and endpoints are boto3's own affair: its environment variables, configuration
files and roles. Nothing is read before a client is asked for.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from sf_sagemaker.errors import SfSagemakerError

if TYPE_CHECKING:
    import boto3
    from botocore.exceptions import ClientError

_ATTEMPTS = 8  # of one call, with botocore's backoff in between: half a minute or so
_CONNECT_SECONDS = 10
_READ_SECONDS = 60


class RegionMissing(SfSagemakerError):
    """No AWS region is configured anywhere."""

    permanent = True


class Aws:
    """One set of clients, shared by the threads of a process. `attempts` bounds each call's tries.

    Calls that are throttled, or meet an error of the service's own or of the network, are tried
    again. botocore's adaptive mode also slows a client down that is throttled.
    """

    def __init__(self, region: str | None = None, *, attempts: int = _ATTEMPTS) -> None:
        self._region = region
        self._attempts = attempts
        # boto3's sessions make one client at a time; a client serves all threads.
        self._lock = Lock()
        self._session: boto3.Session | None = None
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """The region that clients talk to. Raises RegionMissing."""
        with self._lock:
            region = self._opened().region_name
        if not region:
            raise RegionMissing(
                "no AWS region is set: set AWS_REGION, for example AWS_REGION=eu-central-1"
            )
        return region

    def client(self, service: str) -> Any:
        """boto3's client of a service ("s3", "sagemaker", …). Raises RegionMissing."""
        region = self.region
        with self._lock:
            if service not in self._clients:
                from botocore.config import Config

                self._clients[service] = self._opened().client(
                    service,
                    region_name=region,
                    config=Config(
                        retries={"mode": "adaptive", "total_max_attempts": self._attempts},
                        connect_timeout=_CONNECT_SECONDS,
                        read_timeout=_READ_SECONDS,
                        # Many threads of a backfill share a client.
                        max_pool_connections=50,
                        user_agent_extra="sf_sagemaker",
                    ),
                )
            return self._clients[service]

    def _opened(self) -> "boto3.Session":
        if self._session is None:
            import boto3

            # boto3 itself knows AWS_DEFAULT_REGION only.
            region = self._region or os.environ.get("AWS_REGION")
            with translated("open a session of AWS"):
                self._session = boto3.Session(region_name=region)
        return self._session


class AwsError(SfSagemakerError):
    """A call that AWS refused; `code` is its error code."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CredentialsRefused(AwsError):
    """No credentials, or expired or wrong ones."""


class AccessDenied(AwsError):
    """A permission that the caller lacks."""

    permanent = True


class AwsUnavailable(AwsError):
    """A service that is throttling, in trouble or out of reach: a later call may succeed."""


# The first four are of SageMaker and its like, the others of S3 and of STS.
_CREDENTIALS = {
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "InvalidClientTokenId",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestExpired",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"}
_THROTTLED = re.compile(
    r"Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|RateExceeded|BandwidthLimitExceeded"
    r"|PriorRequestNotComplete|RequestTimeout|ProvisionedThroughputExceeded"
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns botocore's errors into this module's; `doing` says what was tried, for the message.

    Anything that a caller wants to know by its code is an AwsError.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise refused(doing, error) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        exceptions.ProfileNotFound,
    ) as error:
        raise CredentialsRefused(
            f"could not {doing}: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, or run where a role is attached"
        ) from error
    except (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
    ) as error:
        raise AwsUnavailable(f"could not {doing}: {error}") from error
    except exceptions.ParamValidationError as error:
        raise AwsError(f"could not {doing}: {error}", "ParamValidation") from error


def refused(doing: str, error: "ClientError") -> AwsError:
    """The error that says the same as botocore's, by what can be done about it."""
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"could not {doing}: {code}: {details.get('Message', '')}"
    if code in _CREDENTIALS:
        return CredentialsRefused(
            f"{said}. The AWS credentials are expired or wrong: renew them, and run again", code
        )
    if code in _DENIED:
        return AccessDenied(
            f"{said}. The caller's policy must allow it (deploy/iam has one that does)", code
        )
    if status == 429 or status >= 500 or _THROTTLED.search(code):
        return AwsUnavailable(f"{said}. The service may answer later", code)
    return AwsError(said, code)
