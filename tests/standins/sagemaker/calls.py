"""What was asked of the services: every call, in order."""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from standins.sagemaker.requests import Request


@dataclass
class Call:
    """A call. `error` is the code of the answer where it was an error; None while unanswered.

    `answered` is False for a call whose connection was lost before its answer arrived.
    """

    request: Request
    at: float = field(default_factory=time.time)
    status: int | None = None
    error: str | None = None
    answered: bool = False

    @property
    def service(self) -> str:
        return self.request.service

    @property
    def operation(self) -> str:
        return self.request.operation

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.request.parameters

    @property
    def by_execution_role(self) -> bool:
        return self.request.by_execution_role

    def __repr__(self) -> str:
        return f"<{self.service} {self.operation} {self.status} {self.error or ''}>"


class Calls:
    """The calls of clients, in order; those that jobs made under their role are in `of_jobs`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def add(self, request: Request) -> Call:
        call = Call(request)
        with self._lock:
            self._calls.append(call)
        return call

    def everyone(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter([call for call in self.everyone() if not call.by_execution_role])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def of_jobs(self) -> list[Call]:
        return [call for call in self.everyone() if call.by_execution_role]

    def of(self, operation: str, **parameters: Any) -> list[Call]:
        """The clients' calls of an operation, with the parameters that are given."""
        return [
            call
            for call in self
            if call.operation == operation
            and all(call.parameters.get(name) == value for name, value in parameters.items())
        ]

    def count(self, operation: str, **parameters: Any) -> int:
        return len(self.of(operation, **parameters))

    def counts(self) -> dict[str, int]:
        """How often each operation was called by clients, as {"s3:PutObject": 3}."""
        counts: dict[str, int] = {}
        for call in self:
            name = f"{call.service}:{call.operation}"
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
