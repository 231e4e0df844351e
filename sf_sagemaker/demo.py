"""`make demo`: raw rows to trained models, through Dagster, with a table of each at the end.

Everything is materialized into the Dagster instance that `make dev` shows. What exists and is
unchanged is reused: a landed week changes nothing, a dataset with the same rows keeps its files, and
a model whose job has completed is adopted. dbt builds and tests anew each time.
"""

import argparse
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

WEEKS = ("2014-04-28", "2015-01-05")  # landed
MODEL_WEEKS = ("2014-12-08", "2014-12-15", "2014-12-22", "2014-12-29")
MONTHS = ("1994-01-01", "1996-12-01")
MODEL_MONTH = "1996-12-01"

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


def main(*, with_llm: bool) -> int:
    """Builds the demo and prints what was built. Returns 0, or 1 when anything failed."""
    from sf_sagemaker import deployment
    from sf_sagemaker.definitions import defs

    for category in (dg.BetaWarning, dg.PreviewWarning):  # for authors, not for viewers
        warnings.simplefilter("ignore", category)
    started = time.monotonic()
    tables = []
    with dg.DagsterInstance.get() as instance:
        demo = Demo(defs(), instance)
        try:
            tables.append(_house_prices(demo))
            if with_llm:
                tables.append(_incident_triage(demo))
        except StepFailed as failure:
            print(f"✗ {failure}", file=sys.stderr)
            return 1
    print("\n" + "\n\n".join(tables))
    print(
        f"\nBuilt in {time.monotonic() - started:.0f} s. The models lie in "
        f"{deployment.home() / 'storage' / 'training-jobs'}/<training job>/output/model.tar.gz\n"
        "`make dev` opens it in the Dagster UI: http://127.0.0.1:3000"
    )
    return 0


def _house_prices(demo: Demo) -> str:
    """Four weekly models of house prices; the table of their errors."""
    _land_and_build(demo, "raw/house_sales", "features/house_price_features", WEEKS)
    dataset_key, model_key = _keys("house_prices", "trained_xgboost_model")
    headings = ["week", "rows", "error, test", "error, next week", "baseline, next week"]
    rows = [[*headings, "how", "time", "training job"]]
    for week in MODEL_WEEKS:
        step = demo.run(
            f"house_prices of {week}: dataset and model", [dataset_key, model_key], partition=week
        )
        dataset, model = step.metadata[dataset_key], step.metadata[model_key]
        print(
            f"  {dataset['dagster/row_count']:,} rows, {_how(model)} {model['training_job']}, "
            f"{model['rounds']} rounds  {_took(step)}"
        )
        rows.append(
            [
                week,
                f"{dataset['dagster/row_count']:,}",
                f"{model['test_median_absolute_percentage_error']:.2f} %",
                _percent(model.get("next_period_median_absolute_percentage_error")),
                _percent(model.get("next_period_baseline_median_absolute_percentage_error")),
                _how(model),
                f"{step.seconds:.1f} s",
                model["training_job"],
            ]
        )
    return (
        "house_prices: median absolute percentage error; the baseline is the zip code's median "
        "price\n\n" + _table(rows)
    )


def _incident_triage(demo: Demo) -> str:
    """A language model fine-tuned on bird-strike reports; its scores, and an answer before and after."""
    _land_and_build(demo, "raw/incident_reports", "features/incident_triage_examples", MONTHS)
    dataset_key, model_key = _keys("incident_triage", "fine_tuned_llm")
    step = demo.run(
        f"incident_triage of {MODEL_MONTH}: dataset and fine-tuned language model",
        [dataset_key, model_key],
        partition=MODEL_MONTH,
    )
    dataset, model = step.metadata[dataset_key], step.metadata[model_key]
    print(
        f"  {dataset['dagster/row_count']:,} rows, {_how(model)} {model['training_job']}, "
        f"{model['steps']} steps  {_took(step)}"
    )
    rows = [["on the test split", "right answers"]]
    for name in ("fine_tuned", "word_model", "prompted_base", "commonest_answer"):
        rows.append([name.replace("_", " "), f"{100 * model[f'{name}_exact_match']:.1f} %"])
    sample = _telling(model["samples"])
    return (
        f"incident_triage: {dataset['rows_test']} held-out reports, {_how(model)} in "
        f"{model['training_seconds']:.0f} s as {model['training_job']}\n\n{_table(rows)}\n\n"
        f"asked:         {sample['prompt']}\n"
        f"before tuning: {sample['before']!r}\n"
        f"after tuning:  {sample['after']!r}   (right: {sample['completion']!r})"
    )


def _telling(samples: dg.TableMetadataValue) -> Mapping[str, Any]:
    """The first sample that the fine-tuned model answers right, or else the first one."""
    records = [record.data for record in samples.records]
    right = [r for r in records if r["after"] == r["completion"] and r["before"] != r["completion"]]
    return (right or records)[0]


def _land_and_build(demo: Demo, raw: str, features: str, periods: tuple[str, str]) -> None:
    """Lands a raw table, and builds and tests the dbt models up to its features."""
    raw_key, features_key = dg.AssetKey(raw.split("/")), dg.AssetKey(features.split("/"))
    landed = demo.run(
        f"landing {raw}, {periods[0]} to {periods[1]}", [raw_key], partition_range=periods
    )
    rows = landed.metadata[raw_key]
    print(f"  {rows['dagster/row_count']:,} rows in {rows['periods']} periods  {_took(landed)}")
    built = demo.run(
        f"dbt build of {features} and all before it, with their tests",
        _dbt_models(demo.definitions, raw_key, features_key),
        partition_range=periods,
        quiet=True,
    )
    count = built.metadata[features_key].get("dagster/row_count")
    print(f"  {count:,} rows of features  {_took(built)}")


def _keys(model: str, asset: str) -> tuple[dg.AssetKey, dg.AssetKey]:
    return dg.AssetKey([model, "sampled_training_dataset"]), dg.AssetKey([model, asset])


def _how(model: Mapping[str, Any]) -> str:
    return "adopted" if model["adopted"] else "trained"


def _dbt_models(
    definitions: dg.Definitions, raw: dg.AssetKey, features: dg.AssetKey
) -> list[dg.AssetKey]:
    """The assets between the raw table and the features, the features included."""
    graph = definitions.resolve_asset_graph()
    selection = dg.AssetSelection.assets(features).upstream() - dg.AssetSelection.assets(raw)
    return sorted(selection.resolve(graph))


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


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under a heading, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--without-llm", action="store_true", help="leave out the language model")
    sys.exit(main(with_llm=not parser.parse_args().without_llm))
