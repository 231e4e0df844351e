"""Runs of the code location in this process, and what of them goes to the terminal."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

# Dagster's own log of these runs is in the UI; the terminal gets what a person wants to see.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class StepFailed(Exception):
    """A run of a command that failed; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """A finished run: the metadata of what it materialized, by asset, and the seconds that it took.

    Of several partitions of an asset, the metadata are those of the last one.
    """

    metadata: Mapping[dg.AssetKey, Mapping[str, Any]]
    seconds: float

    @property
    def took(self) -> str:
        return f"({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Runs:
    """The code location, and the instance that the runs of a command go to."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def run(
        self,
        title: str,
        keys: Sequence[str],
        *,
        partition: str | None = None,
        partition_range: tuple[str, str] | None = None,
        quiet: bool = False,
    ) -> Step:
        """Materializes assets in one run; `quiet` keeps what its steps print for the UI.

        Raises StepFailed with the cause of the run's first failure.
        """
        print(f"▸ {title}", flush=True)
        started = time.monotonic()
        tags = {}
        if partition_range is not None:
            tags = {
                "dagster/asset_partition_range_start": partition_range[0],
                "dagster/asset_partition_range_end": partition_range[1],
            }
        job = self.definitions.resolve_implicit_global_asset_job_def()
        with _silence() if quiet else nullcontext():
            result = job.execute_in_process(
                asset_selection=[asset_key(key) for key in keys],
                partition_key=partition,
                instance=self.instance,
                tags=tags,
                run_config=_QUIET,
                raise_on_error=False,
            )
        if not result.success:
            raise StepFailed(f"{title}: {_first_failure(result)}")
        metadata = {
            event.asset_key: {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }
        return Step(metadata, time.monotonic() - started)


@contextmanager
def open_runs() -> Iterator[Runs]:
    """The code location and the instance of DAGSTER_HOME."""
    from sf_sagemaker.definitions import defs

    with dg.DagsterInstance.get() as instance:
        yield Runs(defs(), instance)


def asset_key(path: str) -> dg.AssetKey:
    """The key that a path such as raw/house_sales names."""
    return dg.AssetKey(path.split("/"))


def land_and_build(runs: Runs, raw: str, features: str, periods: tuple[str, str]) -> None:
    """Lands a raw table, and builds and tests the dbt models up to its features."""
    landed = runs.run(
        f"landing {raw}, {periods[0]} to {periods[1]}", [raw], partition_range=periods
    )
    rows = landed.metadata[asset_key(raw)]
    print(f"  {rows['dagster/row_count']:,} rows in {rows['periods']} periods  {landed.took}")
    built = runs.run(
        f"dbt build of {features} and all before it, with their tests",
        _dbt_models(runs.definitions, asset_key(raw), asset_key(features)),
        partition_range=periods,
        quiet=True,
    )
    count = built.metadata[asset_key(features)].get("dagster/row_count")
    print(f"  {count:,} rows of features  {built.took}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under a heading, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _dbt_models(definitions: dg.Definitions, raw: dg.AssetKey, features: dg.AssetKey) -> list[str]:
    """The assets between the raw table and the features, the features included."""
    graph = definitions.resolve_asset_graph()
    selection = dg.AssetSelection.assets(features).upstream() - dg.AssetSelection.assets(raw)
    return sorted(key.to_user_string() for key in selection.resolve(graph))


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_node_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            return f"{event.step_key} failed: {error.message.strip() if error else 'no error recorded'}"
    return "the run failed before its first step"


@contextmanager
def _silence() -> Iterator[None]:
    """Sends standard output nowhere, that of child processes included."""
    sys.stdout.flush()
    terminal = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(terminal, 1)
        os.close(terminal)
