"""The jobs of a kind that an account has: found by name, waited for, each run in a thread."""

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from standins.sagemaker.requests import ApiError


class Job(Protocol):
    """A job as the service knows it."""

    @property
    def name(self) -> str: ...

    @property
    def arn(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def finished(self) -> threading.Event: ...


_Job = TypeVar("_Job", bound=Job)


class Jobs(Generic[_Job]):
    """By region and name. Names are used once, whatever their case unless `cased`."""

    def __init__(self, noun: str, *, cased: bool = True) -> None:
        self._noun = noun
        self._cased = cased
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._threads: list[threading.Thread] = []

    def __getitem__(self, name: str) -> _Job:
        """The job of that name, in whatever region."""
        for job in self.all():
            if job.name == name:
                return job
        raise KeyError(f"no {self._noun} {name!r}: {', '.join(job.name for job in self.all())}")

    def __len__(self) -> int:
        return len(self.all())

    def all(self) -> list[_Job]:
        """In the order of their creation."""
        with self._lock:
            return list(self._jobs.values())

    def wait(self, name: str, timeout: float = 60.0) -> _Job:
        """The job once it has ended. Raises TimeoutError."""
        job = self[name]
        if not job.finished.wait(timeout):
            raise TimeoutError(f"{name} is {job.status} after {timeout} s")
        return job

    def close(self) -> None:
        """Waits for the threads of jobs, which end because the service is closing."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _start(
        self,
        job: _Job,
        run: Callable[[], None],
        check: Callable[[list[_Job]], None] = lambda others: None,
    ) -> None:
        """Runs a job under its name. `check` gets all others, and raises where it may not run.

        Raises ApiError for a name that was used.
        """
        with self._lock:
            key = self._key(job.region, job.name)
            if key in self._jobs:
                subject = self._noun[0].upper() + self._noun[1:]
                article = "an" if self._noun[0] in "AEIOUaeiou" else "a"
                raise ApiError(
                    "ResourceInUse",
                    f"{subject} names must be unique within an AWS account and region, and {article} "
                    f"{self._noun} with this name already exists ({job.arn})",
                )
            check(list(self._jobs.values()))
            self._jobs[key] = job
            thread = threading.Thread(target=run, name=f"job {job.name}", daemon=True)
            self._threads = [old for old in self._threads if old.is_alive()] + [thread]
            thread.start()

    def _known(self, region: str, name: str) -> _Job | None:
        with self._lock:
            return self._jobs.get(self._key(region, name))

    def _remove(self, job: _Job) -> None:
        with self._lock:
            del self._jobs[self._key(job.region, job.name)]

    def _key(self, region: str, name: str) -> tuple[str, str]:
        return region, name if self._cased else name.lower()
