"""What is said about a failed run: the run as Dagster's instance knows it, put into words."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import dagster as dg

from sf_sagemaker.components.retraining import CAUSE_TAG
from sf_sagemaker.components.training_dataset import DATASET_ASSET

_LONGEST_ERROR = 2_000  # characters; Slack cuts a message after 4,000
_MOST_NAMES = 8


@dataclass(frozen=True)
class Alert:
    """The message about one failed run: one line to recognize it by, and the whole."""

    subject: str
    text: str


@dataclass(frozen=True)
class FailedRun:
    """A failed run: what it was about and what it failed with, which may hold secrets."""

    run_id: str
    job: str | None
    assets: tuple[dg.AssetKey, ...]
    models: tuple[str, ...]
    partition: str | None
    cause: str | None
    step: str | None
    error: str
    other_failed_steps: int
    will_be_retried: bool

    def alert(self, base_url: str | None, hide: Callable[[str], str]) -> Alert:
        """The message; `hide` takes secrets out of the error, before it is shortened."""
        what = self.job or _names([key.to_user_string() for key in self.assets], 1) or self.run_id
        lines = {
            "job": self.job,
            "assets": _names([key.to_user_string() for key in self.assets]),
            "model": _names(self.models),
            "partition": self.partition,
            "cause": self.cause,
            "failed step": self._step(),
            "error": _shorten(hide(self.error)),
            "next": "Dagster retries the run" if self.will_be_retried else None,
            "run": f"{base_url.rstrip('/')}/runs/{self.run_id}" if base_url else self.run_id,
        }
        subject = f"Run failed: {what}" + (f", {self.partition}" if self.partition else "")
        body = "\n".join(f"{label}: {value}" for label, value in lines.items() if value)
        return Alert(" ".join(subject.split()), f"{subject}\n{body}")

    def _step(self) -> str | None:
        if self.step is None or not self.other_failed_steps:
            return self.step
        return f"{self.step}, and {self.other_failed_steps} more"


def failed_run(context: dg.RunFailureSensorContext) -> FailedRun:
    """The run that a run-failure sensor is told of."""
    run = context.dagster_run
    assets = assets_of(context)
    step, error, others = _first_error(context)
    start, end = (
        run.tags.get(f"dagster/asset_partition_range_{bound}") for bound in ("start", "end")
    )
    return FailedRun(
        run_id=run.run_id,
        # A run that was asked for by its assets has a job that nobody defined.
        job=None if run.job_name.startswith("__") else run.job_name,
        assets=assets,
        models=_models(context, assets),
        partition=context.partition_key or (f"{start} to {end}" if start and end else None),
        cause=run.tags.get(CAUSE_TAG),
        step=step,
        error=error,
        other_failed_steps=others,
        will_be_retried=run.tags.get("dagster/will_retry") == "true",
    )


def assets_of(context: dg.RunFailureSensorContext) -> tuple[dg.AssetKey, ...]:
    """The assets that the run was to materialize or check, sorted."""
    run = context.dagster_run
    planned = context.instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    ).records
    keys = {record.asset_key for record in planned if record.asset_key}
    keys.update(check.asset_key for check in run.asset_check_selection or ())
    return tuple(sorted(keys))


def _models(
    context: dg.RunFailureSensorContext, assets: Collection[dg.AssetKey]
) -> tuple[str, ...]:
    """The models that the assets are part of: those with a training dataset of the same name."""
    if context.repository_def is None:
        return ()
    graph = context.repository_def.asset_graph
    names = {key.path[0] for key in assets if len(key.path) > 1}
    return tuple(name for name in sorted(names) if graph.has(dg.AssetKey([name, DATASET_ASSET])))


def _first_error(context: dg.RunFailureSensorContext) -> tuple[str | None, str, int]:
    """The step that failed first, its error, and how many other steps failed.

    A run that failed outside a step, because its process died, has only the event's message.
    """
    failures = [event for event in context.get_step_failure_events() if event.is_step_failure]
    if not failures:
        return None, context.failure_event.message or "no error was recorded", 0
    first = failures[0]
    error = first.step_failure_data.error
    if error is None:
        return first.step_key, first.message or "no error was recorded", len(failures) - 1
    # Dagster wraps an asset's own error in one that only says which step it was.
    while error.cause and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    return first.step_key, error.message.strip(), len(failures) - 1


def _names(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _shorten(text: str) -> str:
    if len(text) <= _LONGEST_ERROR:
        return text
    return f"{text[:_LONGEST_ERROR]}… ({len(text)} characters in all)"
