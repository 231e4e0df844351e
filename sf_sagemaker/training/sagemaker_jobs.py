"""The calls that SageMaker has for jobs of every kind: created under a name, described, stopped.

A job that was created just now may not be seen yet, and the answer to a creation may be lost; both are
told apart from a job that doesn't exist and from one that somebody else created.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from sf_sagemaker.aws import Aws, AwsError, AwsUnavailable, translated
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.platform import JobNameTaken, JobNotFound, PlatformUnavailable
from sf_sagemaker.training.sagemaker_errors import not_found

_APPEARING_SECONDS = 120.0  # while Describe may not know a job that was created just now


class SageMakerJobs:
    """Jobs of one kind. `noun` is for messages ("training job"), `api` the kind as boto3's methods
    name it ("training_job"; `stop_api` where that to stop it has another), and `key` the parameter
    that holds a job's name."""

    def __init__(
        self, aws: Aws, noun: str, api: str, key: str, *, stop_api: str | None = None
    ) -> None:
        self._aws = aws
        self._noun = noun
        self._api = api
        self._stop_api = stop_api or api
        self._key = key
        self._lock = Lock()
        self._known: dict[str, float] = {}  # names of jobs that exist, and since when that is known

    def create(
        self,
        request: Mapping[str, Any],
        is_same: Callable[[Mapping[str, Any]], bool],
        refused: Callable[[AwsError], SfSagemakerError],
    ) -> None:
        """Creates a job. `is_same` tells whether a job that exists is what the request asked for,
        which is so where the answer to an earlier try was lost.

        Raises JobNameTaken, PlatformUnavailable, and what `refused` makes of another refusal.
        """
        name = request[self._key]
        try:
            with translated(f"create {self._noun} {name}"):
                self._call(f"create_{self._api}", **request)
        except AwsError as error:
            if error.code != "ResourceInUse":
                raise refused(error) from error
            self._remember(name)
            try:
                there = self.describe(name)
            except JobNotFound as missing:
                raise JobNameTaken(
                    f"{self._noun} {name} existed: names are never used twice"
                ) from missing
            if not is_same(there):
                raise JobNameTaken(
                    f"{self._noun} {name} exists: names are never used twice"
                ) from error
        self._remember(name)

    def describe(self, name: str) -> dict[str, Any]:
        """What the service says of a job.

        Raises JobNotFound, and PlatformUnavailable, also for a job that has not appeared yet.
        """
        try:
            with unavailable(), translated(f"describe {self._noun} {name}"):
                return self._call(f"describe_{self._api}", **{self._key: name})
        except AwsError as error:
            if not not_found(error):
                raise
            with self._lock:
                appearing = time.monotonic() - self._known.get(name, -_APPEARING_SECONDS)
            if appearing < _APPEARING_SECONDS:
                raise PlatformUnavailable(
                    f"{self._noun} {name} was created and can't be seen yet"
                ) from error
            raise JobNotFound(f"no {self._noun} {name} in {self._aws.region}") from error

    def stop(self, name: str) -> None:
        """Asks a job to stop; one that has ended is left as it is. Raises JobNotFound."""
        try:
            with unavailable(), translated(f"stop {self._noun} {name}"):
                self._call(f"stop_{self._stop_api}", **{self._key: name})
        except AwsError as error:
            if not_found(error):
                raise JobNotFound(f"no {self._noun} {name} in {self._aws.region}") from error
            if error.code != "ValidationException":  # it has ended
                raise

    def _call(self, method: str, **request: Any) -> dict[str, Any]:
        return getattr(self._aws.client("sagemaker"), method)(**request)

    def _remember(self, name: str) -> None:
        with self._lock:
            self._known.setdefault(name, time.monotonic())


def moment(answer: Mapping[str, Any], name: str) -> datetime | None:
    """A time of an answer, in UTC; None where it has none."""
    return answer[name].astimezone(UTC) if name in answer else None


@contextmanager
def unavailable() -> Iterator[None]:
    """What is AWS's trouble inside is the platform's outside."""
    try:
        yield
    except AwsUnavailable as error:
        raise PlatformUnavailable(str(error)) from error
