"""What moto's S3 leaves out: writes that may happen once only, and buckets' regions."""

import threading
from collections.abc import Callable

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.requests import ApiError, Request

_ONCE = ("PutObject", "CompleteMultipartUpload", "CopyObject")


class Buckets:
    def __init__(self, state: AwsState) -> None:
        self._state = state
        self._writing = threading.Lock()

    def check_region(self, request: Request) -> None:
        """Raises ApiError where the request was signed for another region than the bucket's."""
        bucket = request.parameters.get("Bucket")
        if bucket is None or request.operation in ("CreateBucket", "GetBucketLocation"):
            return
        region = self._state.bucket_region(bucket)
        if region not in (None, request.region):
            raise WrongRegion(region or "")

    def write_once(self, request: Request, write: Callable[[], None]) -> None:
        """Carries out a request; one at a time where it must not replace an object.

        Raises ApiError where the object exists and If-None-Match forbids that.
        """
        once = request.headers.get("If-None-Match") == "*" and request.operation in _ONCE
        if not once:
            write()
            return
        target = S3Location(request.parameters["Bucket"], request.parameters["Key"])
        with self._writing:
            known = self._state.bucket_region(target.bucket) is not None
            if known and self._state.has_object(target):
                raise ApiError(
                    "PreconditionFailed",
                    "At least one of the pre-conditions you specified did not hold",
                    412,
                )
            write()


class WrongRegion(ApiError):
    def __init__(self, region: str) -> None:
        super().__init__(
            "PermanentRedirect",
            "The bucket you are attempting to access must be addressed using the specified "
            "endpoint. Please send all future requests to this endpoint.",
            301,
        )
        self.region = region
