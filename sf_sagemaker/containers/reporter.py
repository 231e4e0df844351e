"""How a training script tells what it does: Dagster Pipes under Dagster, and the log everywhere."""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from sf_sagemaker.containers.environment import base_dir

if TYPE_CHECKING:
    from dagster_pipes import (
        PipesContext,
        PipesContextData,
        PipesContextLoader,
        PipesMessageWriter,
        PipesParams,
    )

_CONTAINER_BASE = "/opt/ml"
_LINES_PER_TRAINING = 20


class Reporter:
    """Writes lines to stdout and, where there is a Pipes context, to the Dagster run.

    Numbers also go to Dagster as custom messages: {"progress": {"done", "total", figure: value}}
    and {"metrics": {figure: value}}.
    """

    def __init__(self, pipes: "PipesContext | None" = None) -> None:
        self._pipes = pipes
        self._unreported: tuple[str, dict[str, float]] | None = None

    def info(self, text: str) -> None:
        """One line of log."""
        print(text, flush=True)
        if self._pipes is not None:
            self._pipes.log.info(text)

    def progress(self, done: int, total: int, **figures: float) -> None:
        """`done` of `total` steps, with figures: about twenty lines for a training.

        The line reads `[50/200] train-rmse=0.20134`. The first step and the last one reported
        always get a line.
        """
        shown = f"[{done}/{total}] {_text(figures)}".rstrip()
        self._unreported = (shown, {"done": done, "total": total, **figures})
        if done == 1 or done == total or done % max(1, total // _LINES_PER_TRAINING) == 0:
            self.flush()

    def metrics(self, **figures: float) -> None:
        """Final figures of the training, one line."""
        self.flush()
        self.info(_text(figures))
        self._send("metrics", figures)

    def flush(self) -> None:
        """Reports the last step of progress, where it was held back."""
        if self._unreported is None:
            return
        text, figures = self._unreported
        self._unreported = None
        self.info(text)
        self._send("progress", figures)

    def _send(self, name: str, figures: dict[str, float]) -> None:
        if self._pipes is not None:
            finite = {key: value for key, value in figures.items() if math.isfinite(value)}
            self._pipes.report_custom_message({name: finite})


@contextmanager
def open_reporter(*, leads: bool = True) -> Iterator[Reporter]:
    """A reporter, which ends with an account of the error that leaves the block, if one does.

    It is connected to Dagster on the one host that `leads`, where the environment says that
    Dagster listens and the module dagster_pipes is there.
    """
    if not leads or "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield from _reporting(Reporter())
        return
    try:
        from dagster_pipes import open_dagster_pipes
    except ModuleNotFoundError:
        print("no Dagster Pipes: module dagster_pipes is not in the image or the code", flush=True)
        yield from _reporting(Reporter())
        return
    loader, writer = _transport()
    with open_dagster_pipes(context_loader=loader, message_writer=writer) as pipes:
        yield from _reporting(Reporter(pipes))


def _reporting(reporter: Reporter) -> Iterator[Reporter]:
    try:
        yield reporter
    finally:
        reporter.flush()


def _text(figures: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.6g}" for name, value in figures.items())


def _transport() -> "tuple[PipesContextLoader, PipesMessageWriter]":
    """How the context comes in and messages go out: the bootstrap says which file or stream."""
    from dagster_pipes import PipesDefaultContextLoader, PipesDefaultMessageWriter

    class ContextLoader(PipesDefaultContextLoader):
        """Finds a context in an input channel where the platform's files are elsewhere too."""

        def load_context(self, params: "PipesParams") -> "AbstractContextManager[PipesContextData]":
            path = params.get(self.FILE_PATH_KEY)
            if isinstance(path, str) and path.startswith(f"{_CONTAINER_BASE}/"):
                base = str(base_dir(os.environ))
                params = {**params, self.FILE_PATH_KEY: base + path.removeprefix(_CONTAINER_BASE)}
            return super().load_context(params)

    return ContextLoader(), PipesDefaultMessageWriter()
