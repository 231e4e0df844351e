"""`make demo`: raw rows to a model that has decayed and its successor, and a fine-tuned language model.

Everything is materialized into the Dagster instance that `make dev` shows. What exists and is
unchanged is reused: a landed week changes nothing, a dataset with the same rows keeps its files, and
a model whose job has completed is adopted. dbt builds and tests anew each time.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from sf_sagemaker.commands.runs import (
    Runs,
    StepFailed,
    asset_key,
    land_and_build,
    open_runs,
    table,
)

WEEKS = ("2014-04-28", "2015-03-09")  # landed
FIRST_WEEK, RETRAINED_WEEK = "2014-09-01", "2015-03-02"
EVALUATED_WEEKS = ("2014-09-08", RETRAINED_WEEK)
MONTHS = ("1994-01-01", "1996-12-01")
MODEL_MONTH = "1996-12-01"

_DATASET = "house_prices/sampled_training_dataset"
_MODEL = "house_prices/trained_xgboost_model"
_CHAMPION = "house_prices/champion"


def main(*, with_llm: bool) -> int:
    """Builds the demo and prints what was built. Returns 0, or 1 when anything failed."""
    started = time.monotonic()
    tables = []
    with open_runs() as runs:
        try:
            tables.append(_house_prices(runs))
            if with_llm:
                tables.append(_incident_triage(runs))
        except StepFailed as failure:
            print(f"✗ {failure}", file=sys.stderr)
            return 1
    print("\n" + "\n\n".join(tables))
    print(
        f"\nBuilt in {time.monotonic() - started:.0f} s. The models lie in "
        f"{_models(runs.definitions)}/<training job>/output/model.tar.gz\n"
        "`make dev` opens it in the Dagster UI: http://127.0.0.1:3000"
    )
    return 0


def _models(definitions: dg.Definitions) -> str:
    """Where training jobs leave their models, in whatever storage the deployment has."""
    storage: Any = (definitions.resources or {})["storage"]
    return storage.uri("training-jobs").removeprefix("file://")


def _house_prices(runs: Runs) -> str:
    """A model of house prices, its decay over half a year, and its retraining."""
    land_and_build(runs, "raw/house_sales", "features/house_price_features", WEEKS)
    headings = ["model of", "rows", "error, test", "error, next week", "baseline, next week"]
    models = [[*headings, "how", "time", "training job"], _model(runs, FIRST_WEEK)]
    evaluated = runs.run(
        f"house_prices: evaluations of {EVALUATED_WEEKS[0]} to {EVALUATED_WEEKS[1]}",
        ["house_prices/evaluation"],
        partition_range=EVALUATED_WEEKS,
    )
    print(f"  {evaluated.took}")
    looked_at = runs.run("house_prices: how the champion does", [_CHAMPION])
    decay = looked_at.metadata[asset_key(_CHAMPION)]
    if "decay_by_period" not in decay:
        raise StepFailed(
            f"the champion of house_prices is {decay.get('champion')} already, of which nothing is known: "
            "run the demo in a deployment of its own (make clean, or SF_SAGEMAKER_HOME and DAGSTER_HOME)"
        )
    print(f"  {decay['decay_state']}: {decay['decay_reason']}  {looked_at.took}")
    models.append(_model(runs, RETRAINED_WEEK))
    return (
        "house_prices: median absolute percentage error; the baseline is the zip code's median "
        f"price\n\n{table(models)}\n\nthe champion of {FIRST_WEEK} on later weeks, four at a time; "
        f"the reference is refitted every week\n\n{_decay(decay['decay_by_period'])}\n\n"
        f"{_promotion(runs)}"
    )


def _model(runs: Runs, week: str) -> list[str]:
    step = runs.run(
        f"house_prices of {week}: dataset, model and champion",
        [_DATASET, _MODEL, _CHAMPION],
        partition=week,
    )
    dataset, model, champion = (
        step.metadata[asset_key(key)] for key in (_DATASET, _MODEL, _CHAMPION)
    )
    print(
        f"  {dataset['dagster/row_count']:,} rows, {_how(model)} {model['training_job']}, champion is "
        f"version {champion['version']}, of {champion['partition']}  {step.took}"
    )
    return [
        week,
        f"{dataset['dagster/row_count']:,}",
        f"{model['test_median_absolute_percentage_error']:.2f} %",
        _percent(model.get("next_period_median_absolute_percentage_error")),
        _percent(model.get("next_period_baseline_median_absolute_percentage_error")),
        _how(model),
        f"{step.seconds:.1f} s",
        model["training_job"],
    ]


def _decay(points: dg.TableMetadataValue) -> str:
    """Every fourth week of a champion, to its last."""
    rows = [["four weeks to", "rows", "error", "reference", "bias", "state"]]
    for record in [*points.records[:0:-4]][::-1]:
        point = record.data
        rows.append(
            [
                str(point["period"]),
                f"{point['rows']:,}",
                f"{point['error']:.2f} %",
                f"{point['reference_error']:.2f} %",
                f"{point['bias']:+.1%}",
                str(point["state"]),
            ]
        )
    return table(rows)


def _promotion(runs: Runs) -> str:
    """How the present champion came to be."""
    event = runs.instance.get_latest_materialization_event(asset_key(_CHAMPION))
    materialization = event.asset_materialization if event else None
    if materialization is None:
        raise StepFailed(f"{_CHAMPION} has no materialization")
    champion = {name: value.value for name, value in materialization.metadata.items()}
    return (
        f"champion: version {champion['version']}, {champion['champion']}, in force from "
        f"{champion['in_force_from']}\n{champion['reason']}"
    )


def _incident_triage(runs: Runs) -> str:
    """A language model fine-tuned on bird-strike reports; its scores, and an answer before and after."""
    land_and_build(runs, "raw/incident_reports", "features/incident_triage_examples", MONTHS)
    dataset_key, model_key = (
        "incident_triage/sampled_training_dataset",
        "incident_triage/fine_tuned_llm",
    )
    step = runs.run(
        f"incident_triage of {MODEL_MONTH}: dataset and fine-tuned language model",
        [dataset_key, model_key],
        partition=MODEL_MONTH,
    )
    dataset, model = (step.metadata[asset_key(key)] for key in (dataset_key, model_key))
    print(
        f"  {dataset['dagster/row_count']:,} rows, {_how(model)} {model['training_job']}, "
        f"{model['steps']} steps  {step.took}"
    )
    rows = [["on the test split", "right answers"]]
    for name in ("fine_tuned", "word_model", "prompted_base", "commonest_answer"):
        rows.append([name.replace("_", " "), f"{100 * model[f'{name}_exact_match']:.1f} %"])
    sample = _telling(model["samples"])
    return (
        f"incident_triage: {dataset['rows_test']} held-out reports, {_how(model)} in "
        f"{model['training_seconds']:.0f} s as {model['training_job']}\n\n{table(rows)}\n\n"
        f"asked:         {sample['prompt']}\n"
        f"before tuning: {sample['before']!r}\n"
        f"after tuning:  {sample['after']!r}   (right: {sample['completion']!r})"
    )


def _telling(samples: dg.TableMetadataValue) -> Mapping[str, Any]:
    """The first sample that the fine-tuned model answers right, or else the first one."""
    records = [record.data for record in samples.records]
    right = [r for r in records if r["after"] == r["completion"] and r["before"] != r["completion"]]
    return (right or records)[0]


def _how(model: Mapping[str, Any]) -> str:
    return "adopted" if model["adopted"] else "trained"


def _percent(value: float | None) -> str:
    return "not landed" if value is None else f"{value:.2f} %"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--without-llm", action="store_true", help="leave out the language model")
    sys.exit(main(with_llm=not parser.parse_args().without_llm))
