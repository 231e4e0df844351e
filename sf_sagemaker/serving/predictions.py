"""Batch scoring: a period's rows, predicted by the champion in force, in a table of the warehouse.

`predictions.<model>` has a row for each row of the period, labelled or not: the period, the row key, the
event time, `prediction`, and of classes and answers the `probability` of the prediction; then the
version of the champion, its training job, and when it was predicted, in UTC. Scoring a period again
replaces its rows.

Rows pass through in batches, so memory doesn't grow with the period.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.lifecycle.champions import Champion, champion_model, champion_of, read_champions
from sf_sagemaker.periods import Cadence, Period
from sf_sagemaker.serving.endpoint import FetchArtifact
from sf_sagemaker.serving.errors import NoChampion, ServingError
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.catalog import find_columns, find_relation
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.landing import land_period
from sf_sagemaker.warehouse.selection import select_rows
from sf_sagemaker.warehouse.warehouse import Warehouse, quote

if TYPE_CHECKING:
    import pyarrow as pa

    from sf_sagemaker.containers.llm.model import LanguageModel
    from sf_sagemaker.containers.xgboost.model import XGBoostModel

SCHEMA = "predictions"

_OWN = ("period", "prediction", "probability", "model_version", "training_job", "predicted_at")
_PROMPTS = 16  # that a language model answers at once

Program = Literal["xgboost", "llm"]

# The predictions for some rows, and their probabilities where there are any.
Predict = Callable[["pa.Table"], tuple["pa.Array", "pa.Array | None"]]


class ConflictingColumn(ServingError):
    """A key column that is called as a column of the table of predictions is."""


@dataclass(frozen=True)
class ScoredPeriod:
    """What came of scoring a period. `rows` may be 0; `previous_rows` are those that it replaced."""

    table: str
    champion: Champion
    rows: int
    previous_rows: int


def predict_period(
    warehouse: Warehouse,
    storage: Storage,
    fetch_artifact: FetchArtifact,
    spec: DatasetSpec,
    cadence: Cadence,
    partition: str,
    *,
    program: Program,
    predicted_at: datetime,
    batch_rows: int = 100_000,
) -> ScoredPeriod:
    """Scores the rows of a period by the champion that was in force when it began.

    Every row whose event lies in the period, whatever is known of its label. A category that the model
    doesn't know counts as missing, as in its evaluation. `predicted_at` is aware.

    Raises InvalidPeriod, NoChampion, ModelMissing, ConflictingColumn; what fetching and loading the
    model raise; what `select_rows` raises where the source lacks a column that the model needs; and
    what landing raises.
    """
    period = cadence.period(partition)
    log = read_champions(storage, spec.model)
    champion = champion_of(log, partition)
    if champion is None:
        first = f"the first is in force from {log[0].in_force_from}" if log else "there is none yet"
        raise NoChampion(
            f"no champion of {spec.model} was in force when {partition} began: {first}. Score a later "
            f"period, or materialize {spec.model}/champion"
        )
    features = [name for name, _ in champion_model(storage, champion).features]
    kept = _kept_columns(spec)
    relation = Relation(schema_name=SCHEMA, name=spec.model)
    with tempfile.TemporaryDirectory() as scratch:
        predict = _load(fetch_artifact(champion.training_job, Path(scratch)), program)
        file = Path(scratch) / "predictions.parquet"
        batches = _rows(warehouse, spec, cadence, period, features, kept, batch_rows)
        rows = _write(file, batches, predict, kept, champion, period, predicted_at)
        if rows:
            previous = land_period(warehouse, relation, file, "period", period).previous_rows
        else:
            previous = _remove(warehouse, relation, period)
    return ScoredPeriod(f"{SCHEMA}.{spec.model}", champion, rows, previous)


def _kept_columns(spec: DatasetSpec) -> list[str]:
    """The columns that say which row a prediction is of. Raises ConflictingColumn."""
    kept = list(dict.fromkeys(name.lower() for name in (*spec.row_key, spec.event_time)))
    taken = [name for name in kept if name in _OWN]
    if taken:
        raise ConflictingColumn(
            f"{spec.model} has the key column {taken[0]!r}, and its table of predictions has a column "
            "of that name for itself: rename the key in dbt"
        )
    return kept


def _rows(
    warehouse: Warehouse,
    spec: DatasetSpec,
    cadence: Cadence,
    period: Period,
    features: list[str],
    kept: list[str],
    batch_rows: int,
) -> Iterator["pa.RecordBatch"]:
    with warehouse.reading() as session:
        selection = select_rows(session, spec, cadence.timezone, features)
        rows = selection.rows(selection.in_interval(period.start, period.end), sampled=False)
        names = ", ".join(quote(name) for name in dict.fromkeys([*kept, *features]))
        yield from session.batches(f"select {names} from ({rows}) as present", batch_rows)


def _write(
    file: Path,
    batches: Iterator["pa.RecordBatch"],
    predict: Predict,
    kept: list[str],
    champion: Champion,
    period: Period,
    predicted_at: datetime,
) -> int:
    """Writes the predictions of all batches, and gives the number of rows; no rows, no file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def constant(value: object, kind: "pa.DataType", rows: int) -> "pa.Array":
        return pa.repeat(pa.scalar(value, kind), rows)

    moment = predicted_at.astimezone(UTC).replace(tzinfo=None)
    writer: pq.ParquetWriter | None = None
    total = 0
    try:
        for batch in batches:
            rows = batch.num_rows
            if not rows:
                continue
            prediction, probability = predict(pa.Table.from_batches([batch]))
            columns = {
                "period": constant(period.start.date(), pa.date32(), rows),
                **{name: batch.column(name) for name in kept},
                "prediction": prediction,
                **({} if probability is None else {"probability": probability}),
                "model_version": constant(champion.version, pa.int64(), rows),
                "training_job": constant(champion.training_job, pa.string(), rows),
                "predicted_at": constant(moment, pa.timestamp("us"), rows),
            }
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
            total += rows
    finally:
        if writer is not None:
            writer.close()
    return total


def _remove(warehouse: Warehouse, relation: Relation, period: Period) -> int:
    """Removes the predictions of a period that has no rows any more; gives how many there were."""
    with warehouse.writing() as session:
        table = find_relation(session, relation)
        if table is None:
            return 0
        column = find_columns(["period"], table.columns, str(table))["period"]
        condition = f"{quote(column.name)} = {session.dialect.time_literal(period.start, 'date')}"
        (counted,) = session.rows(f"select count(*) from {table.sql} where {condition}")
        with session.transaction():
            session.execute(f"delete from {table.sql} where {condition}")
        return int(counted[0])


def _load(artifact: Path, program: Program) -> Predict:
    if program == "llm":
        from sf_sagemaker.containers.llm import model as language_models

        return _answering(language_models.load_model(artifact))
    from sf_sagemaker.containers.xgboost import model as xgboost_models

    return _boosted(xgboost_models.load_model(artifact))


def _boosted(model: "XGBoostModel") -> Predict:
    import pyarrow as pa

    from sf_sagemaker.containers.serving.xgboost_handler import likeliest

    classes = model.card.target.classes

    def predict(rows: "pa.Table") -> tuple["pa.Array", "pa.Array | None"]:
        predicted = model.predict(rows)
        if classes is None:
            return pa.array(predicted), None
        likely, probability, _ = likeliest(predicted)
        return pa.array(classes, pa.string()).take(pa.array(likely)), pa.array(probability)

    return predict


def _answering(model: "LanguageModel") -> Predict:
    import pyarrow as pa

    answers = model.card.answers

    def predict(rows: "pa.Table") -> tuple["pa.Array", "pa.Array | None"]:
        prompts = [(text or "").strip() for text in rows["prompt"].to_pylist()]
        if not answers:
            starts = range(0, len(prompts), _PROMPTS)
            written = [text for i in starts for text in model.generate(prompts[i : i + _PROMPTS])]
            return pa.array(written, pa.string()), None
        probabilities = model.answer_probabilities(prompts)
        likely = pa.array(answers, pa.string()).take(pa.array(probabilities.argmax(axis=1)))
        return likely, pa.array(probabilities.max(axis=1))

    return predict
