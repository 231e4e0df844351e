"""`make demo`: raw rows to a model that has decayed, its successor and what that predicts, and a
fine-tuned language model.

Everything is materialized into the Dagster instance that `make dev` shows. What exists and is
unchanged is reused: a landed week changes nothing, a dataset with the same rows keeps its files, and
a model whose job has completed is adopted. dbt builds and tests anew each time.

The champion is left answering over HTTP, on this machine only: an endpoint of the deployment aws costs
money until somebody deletes it, so it is for somebody to ask for.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from sf_sagemaker import deployment
from sf_sagemaker.commands.runs import (
    Runs,
    StepFailed,
    asset_key,
    land_and_build,
    open_runs,
    table,
)
from sf_sagemaker.lifecycle.champions import champion_model, read_champions
from sf_sagemaker.serving.endpoint import EndpointHost, endpoint_name
from sf_sagemaker.serving.errors import ServingError

WEEKS = ("2014-04-28", "2015-03-09")  # landed
FIRST_WEEK, RETRAINED_WEEK = "2014-09-01", "2015-03-02"
EVALUATED_WEEKS = ("2014-09-08", RETRAINED_WEEK)
MONTHS = ("1994-01-01", "1996-12-01")
MODEL_MONTH = "1996-12-01"

_DATASET = "house_prices/sampled_training_dataset"
_MODEL = "house_prices/trained_xgboost_model"
_CHAMPION = "house_prices/champion"
_FEATURES = "features/house_price_features"
_PREDICTIONS = "house_prices/predictions"
_ENDPOINT = "house_prices/endpoint"


def main(*, with_llm: bool) -> int:
    """Builds the demo and prints what was built. Returns 0, or 1 when anything failed."""
    started = time.monotonic()
    parts = []
    failed = None
    with open_runs() as runs:
        try:
            parts.append(_house_prices(runs))
            if with_llm:
                parts.append(_incident_triage(runs))
            parts.append(_answer(runs))
        except StepFailed as failure:
            failed = failure
    if parts:
        print("\n" + "\n\n".join(parts), flush=True)
    if failed is not None:
        print(f"✗ {failed}", file=sys.stderr)
        return 1
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
    land_and_build(runs, "raw/house_sales", _FEATURES, WEEKS)
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
    _predictions(runs)
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


def _predictions(runs: Runs) -> None:
    """The newest week as its champion predicts it, and the dbt model that compares it with prices."""
    scored = runs.run(
        f"house_prices: predictions of {WEEKS[1]}", [_PREDICTIONS], partition=WEEKS[1]
    )
    of_week = scored.metadata[asset_key(_PREDICTIONS)]
    compared = runs.run(
        "dbt build of predictions/house_price_predictions",
        ["predictions/house_price_predictions"],
        partition=WEEKS[1],
        quiet=True,
    )
    print(
        f"  {of_week['dagster/row_count']:,} rows, by version {of_week['model_version']}  "
        f"({scored.seconds + compared.seconds:.1f} s)"
    )


def _answer(runs: Runs) -> str:
    """Deploys the champion on this machine, asks it what a house is worth, and says how to ask it."""
    if deployment.name() != "local":
        return f"an endpoint costs money here: to have one, materialize {_ENDPOINT}"
    step = runs.run("house_prices: the champion behind an HTTP endpoint", [_ENDPOINT])
    served = step.metadata[asset_key(_ENDPOINT)]
    print(f"  version {served['version']} answers at {served['address']}  {step.took}")
    house = _house(runs)
    question = deployment.home() / "house.json"
    question.write_text(json.dumps({"instances": [house["features"]]}, indent=1) + "\n")
    host: EndpointHost = (runs.definitions.resources or {})["endpoint_host"]  # pyright: ignore
    try:
        reply = host.invoke(endpoint_name("house_prices"), question.read_bytes())
    except ServingError as error:
        raise StepFailed(f"the endpoint: {error}") from error
    if reply.status != 200:
        raise StepFailed(f"the endpoint answers with status {reply.status}: {reply.body!r}")
    (answer,) = json.loads(reply.body)["predictions"]
    known = ", and trained on sales of that week" if house["known"] else ""
    return (
        f"asked:    what is the house in {house['features']['zip_code']} worth that was sold on "
        f"{house['sale_date']}?\n"
        f"answered: {answer['prediction']:,.0f} dollars   (paid: {house['price']:,.0f}{known})\n\n"
        f"It goes on answering, until `make stop`:\n"
        f"curl {served['address']} -H 'Content-Type: application/json' -d @{_shortest(question)}"
    )


def _house(runs: Runs) -> Mapping[str, Any]:
    """The house with the median price of the newest week, with the features that the champion needs.

    `known` says that the champion, a later one than the demo's, may have been trained on it.
    """
    resources: Mapping[str, Any] = runs.definitions.resources or {}
    champion = read_champions(resources["storage"], "house_prices")[-1]
    names = [name for name, _ in champion_model(resources["storage"], champion).features]
    monday = date.fromisoformat(WEEKS[1])
    with resources["warehouse"].reading() as session:
        sales = session.arrow(
            "select * from features.house_price_features "
            f"where sale_date >= date '{monday}' and sale_date < date '{monday + timedelta(weeks=1)}' "
            "order by price, parcel_id"
        )
    (sale,) = sales.slice(len(sales) // 2, 1).to_pylist()
    features = {name: sale[name] for name in names}
    return {**sale, "features": features, "known": champion.partition >= WEEKS[1]}


def _shortest(file: Path) -> Path:
    """The file's path from here, where it lies below."""
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


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
