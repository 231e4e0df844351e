"""The platform of a kind of job that a deployment can't run: it says so when a step asks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from sf_sagemaker.training.platform import JobRefused, Pacing, TaggedJob


class UnavailablePlatform:
    """A platform without jobs. Whatever is asked of a job raises JobRefused with the `reason`."""

    bills = False
    pacing = Pacing()

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def create(self, job: object, name: str, environment: Mapping[str, str]) -> NoReturn:
        self._refuse()

    def describe(self, name: str) -> NoReturn:
        self._refuse()

    def stop(self, name: str) -> NoReturn:
        self._refuse()

    def read_log(self, name: str, cursor: str | None) -> NoReturn:
        self._refuse()

    def has_artifact(self, name: str) -> NoReturn:
        self._refuse()

    def fetch_artifact(self, name: str, folder: Path) -> NoReturn:
        self._refuse()

    def jobs_of_runs(self, run_ids: Sequence[str]) -> Sequence[TaggedJob]:
        return ()

    def _refuse(self) -> NoReturn:
        raise JobRefused(self._reason)
