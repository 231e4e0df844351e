"""Evaluations in the warehouse: a table of all of them for each model, and a view of the newest.

`lifecycle.<model>_evaluations` has a row for each period, time of evaluation and predictor, and
`lifecycle.<model>_latest_evaluations` those of the newest evaluation of each period. What is undefined
is null; `evaluated_at` is in UTC.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sf_sagemaker.lifecycle.evaluation import (
    Evaluation,
    evaluation_keys,
    evaluations_of,
    score_table,
)
from sf_sagemaker.periods import Period
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.catalog import get_relation
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.landing import Landed, land_period
from sf_sagemaker.warehouse.warehouse import Warehouse, quote

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "lifecycle"


def land_evaluations(
    warehouse: Warehouse, storage: Storage, model: str, period: Period
) -> Landed | None:
    """Replaces a period's rows by all evaluations of it; None where those have scored nothing.

    Two evaluations of a period may end at once, and neither may take the other's rows for gone. Where
    a warehouse has one writer at a time, holding it while they are listed sees to that; where it has
    several, the list is compared afterwards.

    Raises CorruptEvaluation, and what land_period raises.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    relation = Relation(schema_name=SCHEMA, name=f"{model}_evaluations")
    with warehouse.writing(), tempfile.TemporaryDirectory() as scratch:
        while True:
            evaluations = evaluations_of(storage, model, period.key)
            tables = [_rows(it, period) for it in evaluations]
            if not any(table.num_rows for table in tables):
                return None
            file = Path(scratch) / "evaluations.parquet"
            pq.write_table(pa.concat_tables(tables), file)
            landed = land_period(warehouse, relation, file, "period", period)
            if evaluation_keys(storage, model, period.key) == [it.key for it in evaluations]:
                break
        _create_view(warehouse, relation, f"{model}_latest_evaluations")
    return landed


def _create_view(warehouse: Warehouse, relation: Relation, name: str) -> None:
    with warehouse.writing() as session:
        table = get_relation(session, relation)
        # Without the database's name: a DuckDB file may be renamed.
        view = f"{quote(table.schema)}.{quote(session.dialect.created_name(name))}"
        session.execute(
            f"create view if not exists {view} as "
            f"select * from {quote(table.schema)}.{quote(table.name)} "
            "qualify evaluated_at = max(evaluated_at) over (partition by period)"
        )


def _rows(evaluation: Evaluation, period: Period) -> "pa.Table":
    import pyarrow as pa

    scores = score_table(evaluation)
    evaluated_at = evaluation.evaluated_at.replace(tzinfo=None)
    columns = [
        ("period", pa.date32(), period.start.date()),
        ("evaluated_at", pa.timestamp("us"), evaluated_at),
        ("metric", pa.string(), evaluation.metric),
        ("run_id", pa.string(), evaluation.run_id),
    ]
    for position, (name, data_type, value) in enumerate(columns):
        values = pa.array([value] * scores.num_rows, data_type)
        scores = scores.add_column(position, pa.field(name, data_type), values)
    return scores
