"""Faults on demand: what goes wrong in the next calls, and in the next jobs."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from standins.sagemaker.limits import throttled
from standins.sagemaker.requests import ApiError, Request

CAPACITY_ERROR = (
    "CapacityError: Unable to provision requested ML compute capacity. "
    "Please retry using a different ML instance type."
)
INTERNAL_ERROR = "InternalServerError: We encountered an internal error. Please try again."

ANY = "*"


class Lost(Enum):
    """A connection that breaks: before the service took the request, or after it carried it out."""

    REQUEST = "request"
    ANSWER = "answer"


@dataclass
class CallFault:
    """What happens to calls of an operation, `left` times (None: always)."""

    operation: str
    left: int | None
    error: Callable[[Request], ApiError] | None = None
    lost: Lost | None = None
    seconds: float = 0.0
    where: Callable[[Request], bool] = lambda request: True


@dataclass
class JobFault:
    """What happens to the next training: it fails with `reason`, or its spot instances go away."""

    reason: str | None
    after_seconds: float
    spot_only: bool


@dataclass
class Faults:
    """Each method sets one fault; they apply in the order in which they were set.

    `where` limits a fault to requests for which it is true. Calls that jobs make are never hit.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _calls: list[CallFault] = field(default_factory=list)
    _jobs: list[JobFault] = field(default_factory=list)
    _unpassable: set[str] = field(default_factory=set)
    _empty_log_pages: int = 0
    _deployments: list[str] = field(default_factory=list)

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
            self._jobs.clear()
            self._unpassable.clear()
            self._deployments.clear()
            self._empty_log_pages = 0

    def left(self) -> list[str]:
        """What was asked for a number of times and has not happened yet."""
        with self._lock:
            calls = [f"{fault.operation} x{fault.left}" for fault in self._calls if fault.left]
            return calls + [fault.reason or "spot interruption" for fault in self._jobs]

    # Calls

    def throttle(self, operation: str, times: int | None = 1) -> None:
        """ThrottlingException, or what the operation's service says instead."""
        self._add(CallFault(operation, times, throttled))

    def internal_error(self, operation: str, times: int | None = 1) -> None:
        """Status 500, InternalFailure: the call was not carried out."""
        self.fail(operation, "InternalFailure", "An internal error occurred.", 500, times)

    def deny(
        self,
        operation: str,
        times: int | None = None,
        where: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """The caller may not do this."""
        self._add(CallFault(operation, times, _denied, where=where))

    def expire_credentials(self, access_key: str | None = None) -> None:
        """Every call, or every call with one access key, is answered with an expired token."""

        def uses_key(request: Request) -> bool:
            return access_key in (None, request.access_key)

        self._add(CallFault(ANY, None, _expired, where=uses_key))

    def fail(
        self,
        operation: str,
        code: str,
        message: str,
        status: int = 400,
        times: int | None = 1,
        where: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """Any error that a service may answer."""
        error = ApiError(code, message, status)
        self._add(CallFault(operation, times, lambda request: error, where=where))

    def lose_request(self, operation: str, times: int | None = 1) -> None:
        """The connection breaks before the service took the request."""
        self._add(CallFault(operation, times, lost=Lost.REQUEST))

    def lose_answer(self, operation: str, times: int | None = 1) -> None:
        """The request is carried out, and the connection breaks before the caller hears of it."""
        self._add(CallFault(operation, times, lost=Lost.ANSWER))

    def delay(self, operation: str, seconds: float, times: int | None = 1) -> None:
        self._add(CallFault(operation, times, seconds=seconds))

    def empty_log_pages(self, times: int = 1) -> None:
        """GetLogEvents answers a page without events though there are more, as it may."""
        with self._lock:
            self._empty_log_pages += times

    def forbid_passing(self, role_arn: str) -> None:
        """The caller lacks iam:PassRole for the role."""
        with self._lock:
            self._unpassable.add(role_arn)

    # Jobs

    def capacity_error(self, times: int = 1) -> None:
        """The next jobs fail before they start, for want of instances."""
        self._add_jobs(JobFault(CAPACITY_ERROR, 0.0, spot_only=False), times)

    def internal_failure(self, times: int = 1, after_seconds: float = 0.0) -> None:
        """The next jobs fail while they train, by SageMaker's own fault."""
        self._add_jobs(JobFault(INTERNAL_ERROR, after_seconds, spot_only=False), times)

    def interrupt_spot(self, times: int = 1, after_seconds: float = 0.0) -> None:
        """The next trainings on spot instances are interrupted after some seconds of training."""
        self._add_jobs(JobFault(None, after_seconds, spot_only=True), times)

    # Endpoints

    def fail_deployment(self, reason: str, times: int = 1) -> None:
        """The next endpoints that are created or updated get no instances, for that reason."""
        with self._lock:
            self._deployments.extend([reason] * times)

    # What the service asks

    def take(self, request: Request) -> CallFault | None:
        """The fault that hits a request, used up once."""
        if request.by_execution_role:
            return None
        with self._lock:
            for fault in self._calls:
                if fault.operation in (ANY, request.operation) and fault.where(request):
                    if fault.left is not None:
                        fault.left -= 1
                        if fault.left == 0:
                            self._calls.remove(fault)
                    return fault
        return None

    def take_for_job(self, spot: bool) -> JobFault | None:
        with self._lock:
            for fault in self._jobs:
                if spot or not fault.spot_only:
                    self._jobs.remove(fault)
                    return fault
        return None

    def take_for_deployment(self) -> str | None:
        with self._lock:
            return self._deployments.pop(0) if self._deployments else None

    def take_empty_log_page(self) -> bool:
        with self._lock:
            if self._empty_log_pages == 0:
                return False
            self._empty_log_pages -= 1
            return True

    def may_pass(self, role_arn: str) -> bool:
        with self._lock:
            return role_arn not in self._unpassable

    def _add(self, fault: CallFault) -> None:
        with self._lock:
            self._calls.append(fault)

    def _add_jobs(self, fault: JobFault, times: int) -> None:
        with self._lock:
            self._jobs.extend([fault] * times)


def _denied(request: Request) -> ApiError:
    if request.service == "s3":
        return ApiError("AccessDenied", "Access Denied", 403)
    message = (
        f"User: arn:aws:iam::123456789012:user/caller is not authorized to perform: "
        f"{request.service}:{request.operation} because no identity-based policy allows it"
    )
    if request.protocol == "ec2":
        return ApiError("UnauthorizedOperation", message, 403)
    if request.protocol == "query":
        return ApiError("AccessDenied", message, 403)
    return ApiError("AccessDeniedException", message, 400)


def _expired(request: Request) -> ApiError:
    message = "The security token included in the request is expired"
    if request.service == "s3":
        return ApiError("ExpiredToken", "The provided token has expired.", 400)
    if request.protocol == "query":
        return ApiError("ExpiredToken", message, 403)
    if request.protocol == "ec2":
        return ApiError("RequestExpired", "Request has expired.", 400)
    return ApiError("ExpiredTokenException", message, 400)
