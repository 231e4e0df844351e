"""Limits on the rate of calls, as AWS has them: a bucket of tokens for each operation."""

import threading
import time

from standins.sagemaker.requests import ApiError, Request


class _Bucket:
    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst
        self.tokens = burst
        self.filled_at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class RateLimits:
    """Which operations are limited; none is at first. Calls of jobs' own roles are not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def set(self, operation: str, per_second: float, burst: float = 1) -> None:
        """Allows `per_second` calls, after up to `burst` at once."""
        with self._lock:
            self._buckets[operation] = _Bucket(per_second, max(1, burst))

    def clear(self) -> None:
        with self._lock:
            self._buckets.clear()

    def check(self, request: Request) -> None:
        """Raises ApiError where the call comes too soon."""
        with self._lock:
            bucket = self._buckets.get(request.operation)
            if bucket is None or request.by_execution_role or bucket.take():
                return
        raise throttled(request)


def throttled(request: Request) -> ApiError:
    """How the request's service says that it was called too often."""
    if request.service == "s3":
        return ApiError("SlowDown", "Please reduce your request rate.", 503)
    if request.protocol == "ec2":
        return ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
    if request.protocol == "query":
        return ApiError("Throttling", "Rate exceeded")
    return ApiError("ThrottlingException", "Rate exceeded")
