"""The table of a model's predictions, `predictions.<model>`, as an evaluation reads it.

Batch scoring writes it (sf_sagemaker.serving.predictions). Predictions of a period, stored before its
labels were known, tell the outcomes of the model that made them without loading it again. For numbers and
for two classes, they tell everything; of more classes the table has the likeliest one only, and of text
nothing about losses.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sf_sagemaker.lifecycle.outcomes import UNKNOWN_CLASS, Outcomes
from sf_sagemaker.lifecycle.registry import RegisteredModel
from sf_sagemaker.lifecycle.scorers import row_digests
from sf_sagemaker.periods import Period
from sf_sagemaker.warehouse.catalog import find_columns, find_relation
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.warehouse import Warehouse, quote

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SCHEMA = "predictions"

# The columns beside the row key and the event time.
OWN_COLUMNS = (
    "period",
    "prediction",
    "probability",
    "model_version",
    "training_job",
    "predicted_at",
)


@dataclass(frozen=True)
class StoredPredictions:
    """The predictions of a period, all of one training job's model, by the digest of the row key."""

    training_job: str
    row_key: tuple[str, ...]
    rows: "np.ndarray"
    prediction: "pa.ChunkedArray"
    probability: "pa.ChunkedArray | None"

    def predictor(self, model: RegisteredModel, rows: "pa.Table") -> "StoredPredictor | None":
        """What gives the outcomes of `model` on these rows; None where they can't be told from here.

        That is: another model's predictions, rows that weren't predicted, or more than two classes.
        """
        import pyarrow as pa

        if model.training_job != self.training_job or model.target_kind == "text":
            return None
        places = _places(row_digests(rows, self.row_key), self.rows)
        if places is None:
            return None
        text = pa.types.is_string(self.prediction.type) or pa.types.is_large_string(
            self.prediction.type
        )
        if not text:
            return StoredPredictor(self, model.target, places, None)
        # A number that is 0 or 1 is predicted as one of two classes.
        classes = model.classes if model.target_kind == "class" else ("0", "1")
        if classes is None or len(classes) != 2 or self.probability is None:
            return None
        return StoredPredictor(self, model.target, places, (classes[0], classes[1]))


@dataclass(frozen=True)
class StoredPredictor:
    """A model as its stored predictions are; `places` says where those of some rows are."""

    stored: StoredPredictions
    target: str
    places: "np.ndarray"
    classes: tuple[str, str] | None

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        """The outcomes on the rows that it was made for."""
        import numpy as np
        import pyarrow as pa

        labels = rows[self.target]
        predicted = self.stored.prediction
        if self.classes is None:
            values = predicted.to_numpy().astype(np.float64)[self.places]
            actual = labels.cast(pa.float64()).to_numpy()
        else:
            assert self.stored.probability is not None
            likely = np.array(predicted.to_pylist())[self.places]
            probability = self.stored.probability.to_numpy().astype(np.float64)[self.places]
            values = np.where(likely == self.classes[1], probability, 1 - probability)
            index = {name: number for number, name in enumerate(self.classes)}
            found = _as_classes(labels)
            actual = np.array([index.get(label, UNKNOWN_CLASS) for label in found], dtype=float)
        return Outcomes(
            row_digests(rows, self.stored.row_key),
            np.array(rows["split"].to_pylist(), dtype=str),
            actual,
            values,
        )


def read_predictions(
    warehouse: Warehouse, spec: DatasetSpec, period: Period
) -> StoredPredictions | None:
    """What is stored of a period; None where that is nothing, or of several models.

    Raises what sessions of the warehouse raise.
    """
    relation = Relation(schema_name=SCHEMA, name=spec.model)
    keys = [name.lower() for name in spec.row_key]
    with warehouse.reading() as session:
        table = find_relation(session, relation)
        if table is None:
            return None
        there = {column.name.lower() for column in table.columns}
        wanted = [*keys, "prediction", "training_job", "period"]
        if not set(wanted) <= there:
            return None  # of a row key that was configured before
        wanted += ["probability"] if "probability" in there else []
        columns = find_columns(wanted, table.columns, str(table))
        listed = ", ".join(
            f"{quote(columns[name].name)} as {quote(name)}" for name in wanted if name != "period"
        )
        day = session.dialect.time_literal(period.start, "date")
        found = session.arrow(
            f"select {listed} from {table.sql} where {quote(columns['period'].name)} = {day}"
        )
    jobs = found["training_job"].unique().to_pylist()
    if len(jobs) != 1:
        return None
    return StoredPredictions(
        training_job=jobs[0],
        row_key=tuple(keys),
        rows=row_digests(found, keys),
        prediction=found["prediction"],
        probability=found["probability"] if "probability" in wanted else None,
    )


def _places(wanted: "np.ndarray", stored: "np.ndarray") -> "np.ndarray | None":
    """Where each of the wanted digests is among the stored ones; None where one is missing, or twice."""
    import numpy as np

    order = np.argsort(stored)
    ordered = stored[order]
    if len(ordered) > 1 and (ordered[1:] == ordered[:-1]).any():
        return None
    at = np.searchsorted(ordered, wanted)
    if not len(ordered) or (at == len(ordered)).any() or (ordered[at] != wanted).any():
        return None
    return order[at]


def _as_classes(labels: "pa.ChunkedArray") -> list[str]:
    """Labels as classes are named: a number that stands for one has no decimals."""
    import pyarrow as pa

    if pa.types.is_floating(labels.type):
        return [f"{value:g}" for value in labels.to_pylist()]
    return labels.cast(pa.string()).to_pylist()
