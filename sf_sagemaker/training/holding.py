"""How a Dagster run holds the jobs that it waits for: by tags of the run, which other runs read.

A job is stopped when the run that waits for it is being cancelled and no other run holds it. Any other
interruption leaves it for the next run.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from threading import Event, Lock

import dagster as dg

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.job import RUN_TAG
from sf_sagemaker.training.platform import JobDescription, LogLine

JOB_TAG_PREFIX = "sf_sagemaker/"
_RETRY_TAG = "dagster/retry_on_asset_or_op_failure"

StepContext = dg.OpExecutionContext | dg.AssetExecutionContext


class WaitInterrupted(SfSagemakerError):
    """A wait for a job that was given up, because its run was interrupted."""


class RunCancelled(SfSagemakerError):
    """A step that would start a job for a run that is being cancelled."""

    permanent = True


def job_tag(name: str, noun: str = "training job") -> dict[str, str]:
    """The tag of a run that holds the job of that name; a run may hold several."""
    return {f"{JOB_TAG_PREFIX}{name}": noun}


class RunHold:
    """A run that waits for jobs of a kind, whose `noun` messages use ("training job").

    A step that waits for several jobs in threads sets `interrupted` when it is interrupted, and has
    one lock for all of them, `tagging`.
    """

    def __init__(
        self,
        context: StepContext,
        noun: str,
        interrupted: Event | None = None,
        tagging: AbstractContextManager[bool] | None = None,
    ) -> None:
        self._context = context
        self._noun = noun
        self._interrupted = interrupted
        # Dagster reads a run's tags and writes them back: one of two would be lost.
        self._tagging = tagging or Lock()

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of a job that is created for the run, by which it is found afterwards."""
        return {RUN_TAG: self._context.run_id}

    def check(self) -> None:
        """Raises RunCancelled for a run that is being cancelled.

        An op's RetryPolicy starts a step again that a cancellation has interrupted.
        """
        if self._is_cancelled():
            raise RunCancelled(
                f"run {self._context.run_id} is being cancelled: no {self._noun} is run for it"
            )

    def take(self, name: str) -> None:
        """Says in the run's tags and in its log that it holds the job."""
        with self._tagging:
            tag = job_tag(name, self._noun)
            self._context.instance.add_run_tags(self._context.run_id, tag)
        self._context.log.info(f"{self._noun} {name}")

    def report(self, description: JobDescription) -> None:
        """Logs the state of a job."""
        self._context.log.info(
            f"{self._noun} {description.name}: {description.status} "
            f"({description.secondary_status}), log at {description.log}"
        )

    def log(self, line: LogLine) -> None:
        """Prints a line of a job's log into the step's standard output."""
        sys.stdout.write(f"{line.host}  {line.text}\n")

    def pause(self, seconds: float) -> None:
        """Waits. Raises WaitInterrupted."""
        if self._interrupted is None:
            time.sleep(seconds)
        elif self._interrupted.wait(seconds):
            raise WaitInterrupted(f"the run was interrupted while it waited for a {self._noun}")

    def nobody_wants(self, name: str) -> bool:
        """Whether this run is being cancelled, and no other run waits, or will wait, for the job.

        An eviction or a restart interrupts a step as a cancellation does; the run's status tells them
        apart.
        """
        if not self._is_cancelled():
            return False
        holders = self._context.instance.get_runs(
            filters=dg.RunsFilter(
                tags=job_tag(name, self._noun),
                statuses=[
                    dg.DagsterRunStatus.QUEUED,
                    dg.DagsterRunStatus.NOT_STARTED,
                    dg.DagsterRunStatus.STARTING,
                    dg.DagsterRunStatus.STARTED,
                ],
            )
        )
        return all(holder.run_id == self._context.run_id for holder in holders)

    def asked_at(self) -> datetime:
        """When somebody asked for this run: a retry counts from the run that it retries."""
        context = self._context
        root = context.run.get_root_run_id() or context.run_id
        record = context.instance.get_run_record_by_id(root)
        if record is None:  # deleted since
            record = context.instance.get_run_record_by_id(context.run_id)
        if record is None:
            raise dg.DagsterInvariantViolationError(f"run {context.run_id} is not in its instance")
        return record.create_timestamp

    def _is_cancelled(self) -> bool:
        run = self._context.instance.get_run_by_id(self._context.run_id)
        return run is not None and run.status is dg.DagsterRunStatus.CANCELING


@contextmanager
def not_retried(context: StepContext) -> Iterator[None]:
    """Keeps Dagster from trying a permanent error again, by an op's policy or by a run's retries.

    Run retries look at the run's tags and never at the error.
    """
    try:
        yield
    except SfSagemakerError as error:
        if not error.permanent:
            raise
        context.instance.add_run_tags(context.run_id, {_RETRY_TAG: "false"})
        raise dg.Failure(description=str(error), allow_retries=False) from error
