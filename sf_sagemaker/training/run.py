"""The life of a training job, on any platform: one attempt found or created, then waited for.

Names are never reusable, so the name decides who trains. A run looks for the first attempt that it
can use: one that is running, or has completed and still has its artifact, is adopted; one that
failed, was stopped or lost its artifact is passed over; and the first name that nobody used is
created. Where two runs create the same name at once, the platform lets one of them win, and the
other adopts.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime

from sf_sagemaker.training.errors import (
    TooManyAttempts,
    TrainingJobFailed,
    TrainingJobStopped,
    TrainingJobVanished,
)
from sf_sagemaker.training.job import TrainingJob
from sf_sagemaker.training.platform import (
    JobDescription,
    JobNameTaken,
    JobNotFound,
    JobStatus,
    LogLine,
    TrainingPlatform,
)

_LOG_TAIL = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A completed training job. `adopted` says that another run had created it."""

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


def run_training_job(
    job: TrainingJob,
    platform: TrainingPlatform,
    *,
    not_before: datetime | None = None,
    open_messages: Callable[[str], AbstractContextManager[Mapping[str, str]]] = _no_messages,
    on_log: Callable[[LogLine], None] = _log_line,
    on_status: Callable[[JobDescription], None] = _log_status,
    on_attempt: Callable[[str], None] = lambda name: None,
    should_stop: Callable[[str], bool] = lambda name: False,
    pause: Callable[[float], None] = time.sleep,
    poll_seconds: float = 1.0,
    max_attempts: int = 100,
) -> TrainingResult:
    """Trains `job`, or adopts the attempt that did or does, and waits until it has completed.

    With `not_before` (aware, UTC) a job created earlier is not adopted, whatever its state: the
    time at which somebody asked for a new training. `open_messages` is entered, by the job's name,
    around the creation and the wait, and gives the environment for the job. `on_attempt` is called
    with the name before the job is created or waited for, `on_log` with each line of the log from
    its start, also when adopting, and `on_status` on each change of status.

    When something interrupts the wait, the job goes on, for a later run to adopt, unless
    `should_stop(name)` says that nobody wants it any more. `pause` waits for some seconds; it may
    raise, to interrupt the wait.

    Raises TrainingJobFailed, TrainingJobStopped, TrainingJobVanished or TooManyAttempts, and what
    the platform raises on creation.
    """
    if not_before is not None:
        # A new training starts from nothing, and its own retries resume it.
        job = replace(job, checkpoint_series=not_before.strftime("%Y%m%dT%H%M%S"))
    for attempt in range(1, max_attempts + 1):
        name = job.name(attempt)
        found = _settled(platform, name, pause, poll_seconds)
        if found is not None and not _adoptable(found, platform, not_before):
            continue
        with open_messages(name) as environment:
            ended = False
            try:
                on_attempt(name)
                adopted = found is not None or not _created(platform, job, name, environment)
                description, log_tail = _wait(
                    platform, name, on_log, on_status, pause, poll_seconds
                )
                ended = True
            finally:
                if not ended and should_stop(name):
                    with suppress(JobNotFound):
                        platform.stop(name)
        if description.status is JobStatus.FAILED:
            raise TrainingJobFailed(description, log_tail)
        if description.status is JobStatus.STOPPED:
            raise TrainingJobStopped(description)
        return TrainingResult(name, attempt, adopted, description)
    raise TooManyAttempts(job.name(1), job.name(max_attempts))


def _settled(
    platform: TrainingPlatform, name: str, pause: Callable[[float], None], poll_seconds: float
) -> JobDescription | None:
    """The job of that name, once it is no longer stopping; None where there is none."""
    while True:
        try:
            description = platform.describe(name)
        except JobNotFound:
            return None
        if description.status is not JobStatus.STOPPING:
            return description
        pause(_jittered(poll_seconds))


def _adoptable(
    description: JobDescription, platform: TrainingPlatform, not_before: datetime | None
) -> bool:
    if not_before is not None and description.created_at < not_before:
        return False
    if description.status is JobStatus.COMPLETED:
        return platform.has_artifact(description.name)
    return not description.status.ended


def _created(
    platform: TrainingPlatform, job: TrainingJob, name: str, environment: Mapping[str, str]
) -> bool:
    """Whether this run created the job; False where another took the name a moment earlier."""
    try:
        platform.create(job, name, environment)
    except JobNameTaken:
        return False
    return True


def _wait(
    platform: TrainingPlatform,
    name: str,
    on_log: Callable[[LogLine], None],
    on_status: Callable[[JobDescription], None],
    pause: Callable[[float], None],
    poll_seconds: float,
) -> tuple[JobDescription, Sequence[LogLine]]:
    """How the job ended, and the last lines of its log, all of which have been passed on."""
    cursor: str | None = None
    log_tail: deque[LogLine] = deque(maxlen=_LOG_TAIL)
    seen: tuple[JobStatus, str] | None = None
    while True:
        try:
            # The status is asked for first: what is read after the end is the whole log.
            description = platform.describe(name)
            lines, cursor = platform.read_log(name, cursor)
        except JobNotFound:
            raise TrainingJobVanished(name) from None
        status = (description.status, description.secondary_status)
        if status != seen:
            on_status(description)
            seen = status
        for line in lines:
            on_log(line)
        log_tail.extend(lines)
        if not description.status.ended:
            pause(_jittered(poll_seconds))
        elif not lines:
            return description, tuple(log_tail)


def _jittered(seconds: float) -> float:
    # Runs that a schedule starts together don't poll together.
    return seconds * random.uniform(0.8, 1.2)
