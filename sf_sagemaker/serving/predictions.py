"""Batch scoring: a period's rows, predicted by the champion in force, in a table of the warehouse.

`predictions.<model>` has a row for each row of the period, labelled or not: the period, the row key, the
event time, `prediction`, and of classes and answers the `probability` of the prediction; then the
version of the champion, its training job, and when it was predicted, in UTC. Scoring a period again
replaces its rows.

Who scores is a BatchScoring's to decide. Rows pass through in batches, so memory doesn't grow with the
period; the table is changed in one transaction, when all predictions are there.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.lifecycle.champions import Champion, champion_model, champion_of, read_champions
from sf_sagemaker.lifecycle.predictions import OWN_COLUMNS, SCHEMA
from sf_sagemaker.periods import Cadence, Period
from sf_sagemaker.serving.batch import (
    BatchScoring,
    JobHold,
    NoHold,
    PeriodRows,
    ScoredRows,
    TransformOptions,
)
from sf_sagemaker.serving.endpoint import ServedModel
from sf_sagemaker.serving.errors import NoChampion, ServingError
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.run import JobResult
from sf_sagemaker.warehouse.catalog import find_columns, find_relation
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.landing import land_period
from sf_sagemaker.warehouse.warehouse import Warehouse, quote

if TYPE_CHECKING:
    import pyarrow as pa

Program = Literal["xgboost", "llm"]


class ConflictingColumn(ServingError):
    """A key column that is called as a column of the table of predictions is."""


@dataclass(frozen=True)
class ScoredPeriod:
    """What came of scoring a period. `rows` may be 0; `previous_rows` are those that it replaced.

    `job` is the transform job that made the predictions, where there was one.
    """

    table: str
    champion: Champion
    rows: int
    previous_rows: int
    predicted_at: datetime
    job: JobResult | None = None


def predict_period(
    warehouse: Warehouse,
    storage: Storage,
    scoring: BatchScoring,
    spec: DatasetSpec,
    cadence: Cadence,
    partition: str,
    *,
    program: Program,
    predicted_at: datetime,
    batch_rows: int = 100_000,
    transform: TransformOptions | None = None,
    hold: JobHold | None = None,
) -> ScoredPeriod:
    """Scores the rows of a period by the champion that was in force when it began.

    Every row whose event lies in the period, whatever is known of its label. A category that the model
    doesn't know counts as missing, as in its evaluation. `predicted_at` is aware; predictions that a
    job made are of the time when it ended.

    Raises InvalidPeriod, NoChampion, ModelMissing, ConflictingColumn; what `scoring` raises; and what
    landing raises. The table is then as it was.
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
    registered = champion_model(storage, champion)
    rows = PeriodRows(
        warehouse=warehouse,
        spec=spec,
        cadence=cadence,
        period=period,
        kept=_kept_columns(spec),
        features=tuple(name for name, _ in registered.features),
    )
    model = ServedModel(
        model=spec.model,
        version=champion.version,
        training_job=champion.training_job,
        artifact_uri=registered.artifact_uri,
        program=program,
    )
    relation = Relation(schema_name=SCHEMA, name=spec.model)
    with (
        tempfile.TemporaryDirectory() as scratch,
        scoring.score(
            rows, model, batch_rows=batch_rows, transform=transform, hold=hold or NoHold()
        ) as scores,
    ):
        moment = scores.predicted_at or predicted_at
        file = Path(scratch) / "predictions.parquet"
        written = _write(file, scores.parts, champion, period, moment)
        if written:
            previous = land_period(warehouse, relation, file, "period", period).previous_rows
        else:
            previous = _remove(warehouse, relation, period)
    table = f"{SCHEMA}.{spec.model}"
    return ScoredPeriod(table, champion, written, previous, moment, scores.job)


def _kept_columns(spec: DatasetSpec) -> tuple[str, ...]:
    """The columns that say which row a prediction is of. Raises ConflictingColumn."""
    kept = tuple(dict.fromkeys(name.lower() for name in (*spec.row_key, spec.event_time)))
    taken = [name for name in kept if name in OWN_COLUMNS]
    if taken:
        raise ConflictingColumn(
            f"{spec.model} has the key column {taken[0]!r}, and its table of predictions has a column "
            "of that name for itself: rename the key in dbt"
        )
    return kept


def _write(
    file: Path,
    parts: Iterator[ScoredRows],
    champion: Champion,
    period: Period,
    predicted_at: datetime,
) -> int:
    """Writes the predictions of all parts, and gives the number of rows; no rows, no file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def constant(value: object, kind: "pa.DataType", rows: int) -> "pa.Array":
        return pa.repeat(pa.scalar(value, kind), rows)

    moment = predicted_at.astimezone(UTC).replace(tzinfo=None)
    writer: pq.ParquetWriter | None = None
    total = 0
    try:
        for part in parts:
            rows = part.kept.num_rows
            columns = {
                "period": constant(period.start.date(), pa.date32(), rows),
                **{name: part.kept.column(name) for name in part.kept.column_names},
                "prediction": part.prediction,
                **({} if part.probability is None else {"probability": part.probability}),
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
