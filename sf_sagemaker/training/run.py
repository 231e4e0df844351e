"""The life of a job, on any platform: one attempt found or created, then waited for.

Names are never reusable, so the name decides who computes. A run looks for the first attempt that it
can use: one that is running, or has completed and still has its result, is adopted; one that
failed, was stopped, lost its result or is another deployment's is passed over; and the first
name that nobody used is created. Where two runs create the same name at once, the platform lets one
of them win, and the other adopts.

A platform that doesn't answer is asked again for a while, and an attempt that failed for the
platform's own reasons (no capacity, an internal error) is followed by another one, a few times. Any
other failure is the caller's.
"""

import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self, TypeVar

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.cost import actual_cost, check_cost
from sf_sagemaker.training.errors import (
    TooManyAttempts,
    TrainingJobFailed,
    TrainingJobStopped,
    TrainingJobVanished,
)
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import (
    CREATOR,
    JobDescription,
    JobNameTaken,
    JobNotFound,
    JobPlatform,
    JobStatus,
    LogLine,
    Pacing,
    PlatformUnavailable,
)

_LOG_TAIL = 20
_SETTLE_POLLS = 5  # while the log of an ended job settles
_SLOWER = 1.2  # each poll that brings nothing new makes the next one so much later
_LONGEST_RETRY = 900.0  # seconds between attempts

_Answer = TypeVar("_Answer")

logger = logging.getLogger(__name__)


class Job(Protocol):
    """What a job of any kind is to its life: the names of its attempts, and what they may cost."""

    @property
    def limits(self) -> Limits: ...

    @property
    def instance_count(self) -> int: ...

    def name(self, attempt: int) -> str:
        """The name of the job's attempt, from 1; it follows from what decides the result."""
        ...

    def anew(self, asked_at: datetime) -> Self:
        """The same job, asked for again at some time (UTC): it goes on from nothing that was left."""
        ...


_Job = TypeVar("_Job", bound=Job)


@dataclass(frozen=True)
class JobKind:
    """What jobs of a kind are called, and what is raised for one that ends without a result.

    `failed` gets the job and the last lines of its log, `vanished` the name of a job that was deleted,
    and `exhausted` the names of the first and the last attempt. Jobs whose platform doesn't bound their
    time have `overdue`, which gets the limits that a job was stopped for: who waits for it stops it.
    """

    noun: str
    failed: Callable[[JobDescription, Sequence[LogLine]], SfSagemakerError]
    stopped: Callable[[JobDescription], SfSagemakerError]
    vanished: Callable[[str], SfSagemakerError]
    exhausted: Callable[[str, str], SfSagemakerError]
    overdue: Callable[[JobDescription, Limits], SfSagemakerError] | None = None


TRAINING = JobKind(
    "training job", TrainingJobFailed, TrainingJobStopped, TrainingJobVanished, TooManyAttempts
)


@dataclass(frozen=True)
class JobResult:
    """A completed job. `adopted` says that another run had created it."""

    name: str
    attempt: int
    adopted: bool
    description: JobDescription


def _no_messages(name: str) -> AbstractContextManager[Mapping[str, str]]:
    return nullcontext({})


def _log_line(line: LogLine) -> None:
    logger.info("%s %s", line.host, line.text)


def _log_status(description: JobDescription) -> None:
    logger.info("%s: %s (%s)", description.name, description.status, description.secondary_status)


def run_job(
    job: _Job,
    platform: JobPlatform[_Job],
    kind: JobKind,
    *,
    not_before: datetime | None = None,
    open_messages: Callable[[str], AbstractContextManager[Mapping[str, str]]] = _no_messages,
    on_log: Callable[[LogLine], None] = _log_line,
    take_message: Callable[[LogLine], bool] = lambda line: False,
    on_status: Callable[[JobDescription], None] = _log_status,
    on_attempt: Callable[[str], None] = lambda name: None,
    should_stop: Callable[[str], bool] = lambda name: False,
    log_complete: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] = time.sleep,
    poll_seconds: float | None = None,
    retries: int = 3,
    patience: timedelta = timedelta(minutes=30),
    max_attempts: int = 100,
) -> JobResult:
    """Runs `job`, or adopts the attempt that did or does, and waits until it has completed.

    With `not_before` (aware, UTC) a job created earlier is not adopted, whatever its state: the
    time at which somebody asked for a new one. `open_messages` is entered, by the job's name,
    around the creation and the wait, and gives the environment for the job. `on_attempt` is called
    with the name before the job is created or waited for, `on_log` with each line of the log from
    its start, also when adopting, and `on_status` on each change of status. `take_message` sees each
    line first, and says whether it was a message and no line for people.

    When something interrupts the wait, the job goes on, for a later run to adopt, unless
    `should_stop(name)` says that nobody wants it any more. `pause` waits for some seconds; it may
    raise, to interrupt the wait. `log_complete` says that a completed job's last line has come.

    The platform is asked as often as its `pacing` says, or every `poll_seconds`. `retries` bounds the
    attempts that follow one that failed for the platform's own reasons, `patience` how long the
    platform may be out of reach.

    Raises what `kind` says, PlatformUnavailable, CostAboveMaximum, and what the platform raises on
    creation.
    """
    pacing = platform.pacing
    if poll_seconds is not None:
        pacing = replace(pacing, poll=poll_seconds, longest_poll=poll_seconds)
    patient = _Patient(pacing, patience, pause)
    if not_before is not None:
        job = job.anew(not_before)
    failures = 0
    spent = 0.0
    for attempt in range(1, max_attempts + 1):
        name = job.name(attempt)
        found = _settled(platform, name, patient)
        if found is not None and not _adoptable(found, platform, not_before, patient):
            continue
        with open_messages(name) as environment:
            ended = False
            try:
                on_attempt(name)
                adopted = found is not None
                if not adopted and not _created(platform, job, name, environment, patient):
                    adopted = True
                    found = _settled(platform, name, patient)
                    if found is None or not _adoptable(found, platform, not_before, patient):
                        ended = True
                        continue
                description, log_tail = _wait(
                    platform,
                    kind,
                    name,
                    job.limits,
                    on_log,
                    take_message,
                    on_status,
                    log_complete,
                    patient,
                )
                ended = True
            finally:
                if not ended and should_stop(name):
                    _stop(platform, kind, name)
        if description.status is JobStatus.FAILED:
            failure = description.failure_kind
            if failure is None or not failure.passing or failures == retries:
                raise kind.failed(description, log_tail)
            spent += actual_cost(description, job.limits) or 0.0
            if spent:
                check_cost(job.limits, job.instance_count, spent=spent)
            seconds = min(pacing.retry * 2**failures, _LONGEST_RETRY)
            failures += 1
            logger.warning(
                "%s %s failed (%s); another attempt follows in %.0f seconds",
                kind.noun,
                name,
                description.failure_reason,
                seconds,
            )
            pause(jittered(seconds))
            continue
        if description.status is JobStatus.STOPPED:
            if kind.overdue is not None and description.ran_longer_than(job.limits.max_runtime):
                raise kind.overdue(description, job.limits)
            raise kind.stopped(description)
        return JobResult(name, attempt, adopted, description)
    raise kind.exhausted(job.name(1), job.name(max_attempts))


@dataclass(frozen=True)
class _Patient:
    """Asks a platform that may not answer, at its pace."""

    pacing: Pacing
    patience: timedelta
    pause: Callable[[float], None]

    def ask(self, question: Callable[[], _Answer]) -> _Answer:
        """The answer. Raises PlatformUnavailable where none came for as long as patience lasts."""
        deadline = time.monotonic() + self.patience.total_seconds()
        seconds = self.pacing.poll
        while True:
            try:
                return question()
            except PlatformUnavailable as error:
                if time.monotonic() + seconds > deadline:
                    raise
                logger.warning("%s; asking again in %.0f seconds", error, seconds)
            self.pause(jittered(seconds))
            seconds = min(2 * seconds, max(60.0, self.pacing.longest_poll))


def _settled(platform: JobPlatform[_Job], name: str, patient: _Patient) -> JobDescription | None:
    """The job of that name, once it is no longer stopping; None where there is none."""
    while True:
        try:
            description = patient.ask(lambda: platform.describe(name))
        except JobNotFound:
            return None
        if description.status is not JobStatus.STOPPING or not description.ours:
            return description
        patient.pause(jittered(patient.pacing.poll))


def _adoptable(
    description: JobDescription,
    platform: JobPlatform[_Job],
    not_before: datetime | None,
    patient: _Patient,
) -> bool:
    if not description.ours:
        return False
    if not_before is not None and description.created_at < not_before:
        return False
    if description.status is JobStatus.COMPLETED:
        return patient.ask(lambda: platform.has_artifact(description.name))
    return not description.status.ended


def _created(
    platform: JobPlatform[_Job],
    job: _Job,
    name: str,
    environment: Mapping[str, str],
    patient: _Patient,
) -> bool:
    """Whether this run created the job; False where another took the name a moment earlier."""
    environment = {**environment, CREATOR: uuid.uuid4().hex}
    try:
        patient.ask(lambda: platform.create(job, name, environment))
    except JobNameTaken:
        return False
    return True


def _stop(platform: JobPlatform[_Job], kind: JobKind, name: str) -> None:
    try:
        platform.stop(name)
    except JobNotFound:
        return
    except PlatformUnavailable as error:
        # Why the wait ended matters more to the caller.
        logger.warning("%s %s may go on, although nobody wants it: %s", kind.noun, name, error)


def _wait(
    platform: JobPlatform[_Job],
    kind: JobKind,
    name: str,
    limits: Limits,
    on_log: Callable[[LogLine], None],
    take_message: Callable[[LogLine], bool],
    on_status: Callable[[JobDescription], None],
    log_complete: Callable[[], bool],
    patient: _Patient,
) -> tuple[JobDescription, Sequence[LogLine]]:
    """How the job ended, and the last lines of its log, all of which have been passed on."""
    pacing = patient.pacing
    log_tail: deque[LogLine] = deque(maxlen=_LOG_TAIL)
    cursor: str | None = None

    def pass_on() -> bool:
        """Whether the log has brought something new."""
        nonlocal cursor
        lines, cursor = patient.ask(lambda: platform.read_log(name, cursor))
        for line in lines:
            if not take_message(line):
                on_log(line)
                log_tail.append(line)
        return bool(lines)

    seen: tuple[JobStatus, str] | None = None
    seconds = pacing.poll
    try:
        while True:
            # The status is asked for first: what is read after the end is the whole log.
            description = patient.ask(lambda: platform.describe(name))
            status = (description.status, description.secondary_status)
            changed = status != seen
            if changed:
                on_status(description)
                seen = status
            if description.status.ended:
                break
            if (
                kind.overdue is not None
                and description.status is not JobStatus.STOPPING
                and description.ran_longer_than(limits.max_runtime)
            ):
                # It may complete all the same, and is waited for.
                patient.ask(lambda: platform.stop(name))
            # Before its start, a job has logged nothing.
            if description.started_at is not None:
                changed |= pass_on()
            seconds = pacing.poll if changed else min(_SLOWER * seconds, pacing.longest_poll)
            patient.pause(jittered(seconds))
        _settle_log(description, pass_on, log_complete, patient)
    except JobNotFound:
        raise kind.vanished(name) from None
    return description, tuple(log_tail)


def _settle_log(
    description: JobDescription,
    pass_on: Callable[[], bool],
    log_complete: Callable[[], bool],
    patient: _Patient,
) -> None:
    """Reads an ended job's log until nothing more of it can come."""
    settle = timedelta(seconds=patient.pacing.settle)
    # The platform's clock may be ahead of this one.
    quiet_since = min(description.ended_at or datetime.now(UTC), datetime.now(UTC))
    while True:
        if pass_on():
            quiet_since = max(quiet_since, datetime.now(UTC))
            continue
        if datetime.now(UTC) - quiet_since >= settle:
            return
        # A failed job may say more, after its program has reported all: a stack trace.
        if description.status is JobStatus.COMPLETED and log_complete():
            return
        patient.pause(patient.pacing.settle / _SETTLE_POLLS)


def jittered(seconds: float) -> float:
    """A wait of about so long: runs that a schedule starts together don't poll together."""
    return seconds * random.uniform(0.8, 1.2)
