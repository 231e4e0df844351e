"""Log lines of jobs on their way to CloudWatch Logs, where they arrive late."""

import heapq
import threading
import time
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from standins.sagemaker.clients import Clients
from standins.sagemaker.settings import Settings

GROUP = "/aws/sagemaker/TrainingJobs"
_EVENT_BYTES = 262_144 - 26  # the most that an event may have; CloudWatch Logs quotas
_BATCH = 1_000
_FLUSH_SECONDS = 0.1


@dataclass(order=True)
class _Line:
    due: float
    number: int
    group: str = field(compare=False)
    region: str = field(compare=False)
    stream: str = field(compare=False)
    at: int = field(compare=False)
    text: str = field(compare=False)


class LogDelivery:
    """Takes lines from hosts and puts them into CloudWatch Logs after the settings' delay."""

    def __init__(self, clients: Clients, settings: Settings) -> None:
        self._clients = clients
        self._settings = settings
        self._changed = threading.Condition()
        self._lines: list[_Line] = []
        self._number = 0
        self._last_at = 0
        self._delivering = 0
        self._closed = False
        self._thread = threading.Thread(target=self._deliver, name="log delivery", daemon=True)
        self._thread.start()

    def open(self, region: str, stream: str, group: str = GROUP) -> None:
        logs = self._clients.get("logs", region)
        for create, names in (
            (logs.create_log_group, {"logGroupName": group}),
            (logs.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            try:
                create(**names)
            except logs.exceptions.ResourceAlreadyExistsException:
                continue

    def write(self, region: str, stream: str, text: str, group: str = GROUP) -> None:
        """Takes a line; empty ones are no events."""
        content = text.encode()
        pieces = [content[i : i + _EVENT_BYTES] for i in range(0, len(content), _EVENT_BYTES)]
        with self._changed:
            # A batch whose times go back would be refused.
            self._last_at = max(self._last_at, int(time.time() * 1000))
            due = time.monotonic() + self._settings.log_delay_seconds
            for piece in pieces:
                self._number += 1
                line = _Line(
                    due,
                    self._number,
                    group,
                    region,
                    stream,
                    self._last_at,
                    piece.decode(errors="replace"),
                )
                heapq.heappush(self._lines, line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until every line that was written so far has arrived."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (not self._lines and not self._delivering)
            )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _deliver(self) -> None:
        while True:
            lines = self._due()
            if lines is None:
                return
            for (group, region, stream), its in groupby(
                sorted(lines, key=lambda line: (*_place(line), line.number)), key=_place
            ):
                events = [{"timestamp": line.at, "message": line.text} for line in its]
                self._put(group, region, stream, events)
            with self._changed:
                self._delivering = 0
                self._changed.notify_all()

    def _due(self) -> list[_Line] | None:
        """The lines whose time has come, waiting for the first; None once closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._lines and self._lines[0].due <= now:
                    lines = []
                    while self._lines and self._lines[0].due <= now:
                        lines.append(heapq.heappop(self._lines))
                    self._delivering = len(lines)
                    return lines
                wait = self._lines[0].due - now if self._lines else None
                self._changed.wait(wait if wait is None else max(wait, _FLUSH_SECONDS))
        return None

    def _put(self, group: str, region: str, stream: str, events: list[dict[str, Any]]) -> None:
        logs = self._clients.get("logs", region)
        for start in range(0, len(events), _BATCH):
            try:
                logs.put_log_events(
                    logGroupName=group, logStreamName=stream, logEvents=events[start:][:_BATCH]
                )
            except (ClientError, BotoCoreError):
                # As with CloudWatch: a log that was deleted takes no more lines.
                return


def _place(line: _Line) -> tuple[str, str, str]:
    return line.group, line.region, line.stream
