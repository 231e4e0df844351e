"""`make demo`: raw rows to trained models of several weeks, through Dagster, with a table at the end.

Everything is materialized into the Dagster instance that `make dev` shows. What exists and is
unchanged is reused: a landed week changes nothing, a dataset with the same rows keeps its files, and
a model whose job has completed is adopted.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

FIRST_WEEK = "2014-04-28"
LAST_WEEK = "2015-01-05"
MODEL_WEEKS = ("2014-12-08", "2014-12-15", "2014-12-22", "2014-12-29")

RAW = dg.AssetKey(["raw", "house_sales"])
FEATURES = dg.AssetKey(["features", "house_price_features"])
DATASET = dg.AssetKey(["house_prices", "sampled_training_dataset"])
MODEL = dg.AssetKey(["house_prices", "trained_xgboost_model"])

# Dagster's own log of these runs is in the UI; the terminal gets what a person wants to see.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class StepFailed(Exception):
    """A run of the demo that failed; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """A finished run: the metadata of what it materialized, by asset, and the seconds that it took."""

    metadata: Mapping[dg.AssetKey, Mapping[str, Any]]
    seconds: float


@dataclass(frozen=True)
class Demo:
    """The code location and the instance that the demo's runs go to."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def run(
        self,
        title: str,
        keys: Sequence[dg.AssetKey],
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
                asset_selection=list(keys),
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


def main() -> int:
    """Builds the demo and prints what was built. Returns 0, or 1 when anything failed."""
    from sf_sagemaker import deployment
    from sf_sagemaker.definitions import defs

    for category in (dg.BetaWarning, dg.PreviewWarning):  # for authors, not for viewers
        warnings.simplefilter("ignore", category)
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        demo = Demo(defs(), instance)
        try:
            table = _build(demo)
        except StepFailed as failure:
            print(f"✗ {failure}", file=sys.stderr)
            return 1
    _print_table(table)
    print(
        f"\nBuilt in {time.monotonic() - started:.0f} s. The models lie in "
        f"{deployment.home() / 'storage' / 'training-jobs'}/<training job>/output/model.tar.gz\n"
        "`make dev` opens it in the Dagster UI: http://127.0.0.1:3000"
    )
    return 0


def _build(demo: Demo) -> list[list[str]]:
    weeks = (FIRST_WEEK, LAST_WEEK)
    landed = demo.run(
        f"landing raw/house_sales, {weeks[0]} to {weeks[1]}", [RAW], partition_range=weeks
    )
    rows = landed.metadata[RAW]
    print(f"  {rows['dagster/row_count']:,} rows in {rows['periods']} weeks  {_took(landed)}")

    models = _dbt_models(demo.definitions)
    if rows["changed_periods"] == 0 and _is_current(demo, models):
        print("▸ dbt models: nothing landed or changed since they were built")
    else:
        built = demo.run(
            "dbt build: staging, features and their tests", models, partition_range=weeks
        )
        count = built.metadata[FEATURES].get("dagster/row_count")
        print(f"  {count:,} rows of features  {_took(built)}")

    table = []
    for week in MODEL_WEEKS:
        step = demo.run(
            f"house_prices of {week}: dataset and model", [DATASET, MODEL], partition=week
        )
        dataset, model = step.metadata[DATASET], step.metadata[MODEL]
        how = "adopted" if model["adopted"] else "trained"
        print(
            f"  {dataset['dagster/row_count']:,} rows, {how} {model['training_job']}, "
            f"{model['rounds']} rounds  {_took(step)}"
        )
        table.append(
            [
                week,
                f"{dataset['dagster/row_count']:,}",
                f"{model['test_median_absolute_percentage_error']:.2f} %",
                _percent(model.get("next_period_median_absolute_percentage_error")),
                _percent(model.get("next_period_baseline_median_absolute_percentage_error")),
                how,
                f"{step.seconds:.1f} s",
                model["training_job"],
            ]
        )
    return table


def _dbt_models(definitions: dg.Definitions) -> list[dg.AssetKey]:
    """The assets between the raw table and the features, the features included."""
    graph = definitions.resolve_asset_graph()
    selection = dg.AssetSelection.assets(FEATURES).upstream() - dg.AssetSelection.assets(RAW)
    return sorted(selection.resolve(graph))


def _is_current(demo: Demo, models: Sequence[dg.AssetKey]) -> bool:
    """Whether the models were built, from the code that they have now."""
    built = demo.instance.get_latest_materialization_code_versions(models)
    graph = demo.definitions.resolve_asset_graph()
    return all(built.get(key) == graph.get(key).code_version for key in models)


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


def _took(step: Step) -> str:
    return f"({step.seconds:.1f} s)"


def _percent(value: float | None) -> str:
    return "not landed" if value is None else f"{value:.2f} %"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    headings = ["week", "rows", "error, test", "error, next week", "baseline, next week"]
    headings += ["how", "time", "training job"]
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    print(
        "\nhouse_prices: median absolute percentage error; the baseline is the zip code's median price\n"
    )
    for row in [headings, ["-" * width for width in widths], *rows]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    sys.exit(main())
