"""Training jobs from a Dagster step: what a job reports arrives in the run while it trains.

The job writes Dagster Pipes messages to a place that derives from its name, so that a run which
adopts it reads them from the first. Nothing here ends a job but a cancellation of the only run that
holds it.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock
from typing import Protocol

import dagster as dg
from dagster_pipes import (
    PIPES_PROTOCOL_VERSION_FIELD,
    PipesDefaultMessageWriter,
    PipesMessage,
)

from sf_sagemaker.training.holding import RunHold, StepContext
from sf_sagemaker.training.job import RUN_TAG, TrainingJob
from sf_sagemaker.training.platform import LogLine, TrainingPlatform
from sf_sagemaker.training.run import TRAINING, JobResult, run_job

_FOLLOW_SECONDS = 0.1


class JobMessages(Protocol):
    """How a job of a given name gets its Pipes context, and where it leaves its messages."""

    def context_injector(self, name: str) -> dg.PipesContextInjector: ...

    def message_reader(self, name: str) -> "JobMessageReader": ...


class JobMessageReader(dg.PipesMessageReader):
    """Reads what one job reports: from a place of its own, or from among the lines of its log."""

    @property
    def expected_writer_count(self) -> int:
        """One: of several hosts, only the first reports."""
        return 1

    def receive(self, line: LogLine) -> bool:
        """Takes a line of the log, and says whether it was a message."""
        return False

    @property
    def closed(self) -> bool:
        """Whether the job has said among the lines that it has reported all."""
        return False


class FileMessages:
    """Messages in a file of this machine; `path` gives it for a job's name."""

    def __init__(self, path: Callable[[str], Path]) -> None:
        self._path = path

    def context_injector(self, name: str) -> dg.PipesContextInjector:
        return dg.PipesEnvContextInjector()

    def message_reader(self, name: str) -> JobMessageReader:
        return JobFileMessageReader(self._path(name))


class JobFileMessageReader(JobMessageReader):
    """Reads the messages in a file from its start, and leaves the file as it is.

    dagster's PipesFileMessageReader empties the file when it opens and removes it when it closes,
    which would take a job's messages from the runs that adopt it. It also fails on a line that is
    not yet written whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[Mapping[str, object]]:
        closing = Event()
        with ThreadPoolExecutor(1, thread_name_prefix="job-messages") as pool:
            following = pool.submit(self._follow, handler, closing)
            try:
                yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._path)}
            finally:
                closing.set()
        following.result()

    def no_messages_debug_text(self) -> str:
        return f"Attempted to read messages from {self._path}."

    def _follow(self, handler: dg.PipesMessageHandler, closing: Event) -> None:
        position = 0
        while True:
            # Asked before reading: what was written until then is read to the end.
            last = closing.is_set()
            for line in self._lines(position):
                position += len(line)
                handler.handle_message(json.loads(line))
            if last:
                return
            closing.wait(_FOLLOW_SECONDS)

    def _lines(self, position: int) -> Iterator[bytes]:
        """The whole lines after a position in bytes."""
        try:
            with self._path.open("rb") as file:
                file.seek(position)
                yield from (line for line in file if line.endswith(b"\n"))
        except FileNotFoundError:
            return


_METHODS = frozenset(
    (
        "opened",
        "closed",
        "log",
        "log_external_stream",
        "report_asset_materialization",
        "report_asset_check",
        "report_custom_message",
    )
)


class JobLogMessageReader(JobMessageReader):
    """Takes the messages from the lines of the job's log, which whoever reads the log hands over."""

    def __init__(self) -> None:
        self._handler: dg.PipesMessageHandler | None = None
        self._last: PipesMessage | None = None

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[Mapping[str, object]]:
        self._handler = handler
        try:
            yield {PipesDefaultMessageWriter.STDIO_KEY: PipesDefaultMessageWriter.STDOUT}
        finally:
            if self._last is not None:
                handler.handle_message(self._last)
            self._handler = None

    def receive(self, line: LogLine) -> bool:
        message = _message(line.text)
        if message is None or self._handler is None:
            return False
        # A program that was interrupted and started anew reports on: only the last end is one.
        self._last = message if message["method"] == "closed" else None
        if self._last is None:
            self._handler.handle_message(message)
        return True

    @property
    def closed(self) -> bool:
        return self._last is not None

    def no_messages_debug_text(self) -> str:
        return "Attempted to read messages from the lines of the training job's log."


def _message(text: str) -> PipesMessage | None:
    """The message that a line is; None for any other line."""
    if not text.startswith("{") or PIPES_PROTOCOL_VERSION_FIELD not in text:
        return None
    try:
        message = json.loads(text)
    except json.JSONDecodeError:
        return None
    if PIPES_PROTOCOL_VERSION_FIELD not in message or message.get("method") not in _METHODS:
        return None
    return message


class TrainingInvocation(dg.PipesClientCompletedInvocation):
    """A completed training job: `result` says which, the rest is what it reported."""

    def __init__(self, session: dg.PipesSession, result: JobResult) -> None:
        super().__init__(session)
        self.result = result


class PipesTrainingClient(dg.PipesClient):
    """Runs training jobs from Dagster steps. The threads of a step share one client.

    The platform is asked at its own pace, or every `poll_seconds`.
    """

    def __init__(self, messages: JobMessages, *, poll_seconds: float | None = None) -> None:
        self._messages = messages
        self._poll_seconds = poll_seconds
        self._tagging = Lock()

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        context: StepContext,
        job: TrainingJob,
        platform: TrainingPlatform,
        force: bool = False,
        extras: Mapping[str, object] | None = None,
        interrupted: Event | None = None,
    ) -> TrainingInvocation:
        """Trains `job`, or adopts the attempt that did or does, and waits until it has completed.

        The job's log goes to the step's standard output. `force` trains anew unless an attempt was
        created since this run, or the run that it retries, was. A step that waits for several jobs
        in threads sets `interrupted` when it is interrupted: the wait ends with WaitInterrupted.
        Raises RunCancelled, and as `run_job` does.
        """
        hold = RunHold(context, "training job", interrupted, self._tagging)
        hold.check()
        job = replace(job, tags={**job.tags, RUN_TAG: context.run_id})
        sessions: list[dg.PipesSession] = []
        readers: list[JobMessageReader] = []

        @contextmanager
        def open_messages(name: str) -> Iterator[Mapping[str, str]]:
            reader = self._messages.message_reader(name)
            readers.append(reader)
            with dg.open_pipes_session(
                context=context,
                context_injector=self._messages.context_injector(name),
                message_reader=reader,
                extras=dict(extras or {}),
            ) as session:
                sessions.append(session)
                yield session.get_bootstrap_env_vars()

        def on_log(line: LogLine) -> None:
            host = f"{line.host}  " if job.instance_count > 1 else ""
            partition = f"{job.partition}  " if interrupted is not None else ""
            sys.stdout.write(f"{partition}{host}{line.text}\n")

        result = run_job(
            job,
            platform,
            TRAINING,
            not_before=hold.asked_at() if force else None,
            open_messages=open_messages,
            on_attempt=hold.take,
            on_status=hold.report,
            on_log=on_log,
            take_message=lambda line: readers[-1].receive(line),
            should_stop=hold.nobody_wants,
            log_complete=lambda: readers[-1].closed,
            pause=hold.pause,
            poll_seconds=self._poll_seconds,
        )
        return TrainingInvocation(sessions[-1], result)
