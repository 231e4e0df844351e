"""Evaluations: what the models of earlier periods were worth on the rows of a period.

An evaluation is a folder of object storage that is never changed. Evaluating a period again, with late
or corrected labels, adds another one; the newest counts. It is made as of a moment in data time, by
which its labels were known.
"""

import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.lifecycle.outcomes import Outcomes
from sf_sagemaker.storage import KeyExists, Storage

if TYPE_CHECKING:
    import pyarrow as pa

_OUTCOMES = "outcomes.parquet"
_SCORES = "scores.parquet"  # written last: what makes the folder an evaluation
_STAMP = "%Y%m%dT%H%M%S%fZ"
_HEADER = b"evaluation"


class CorruptEvaluation(SfSagemakerError):
    """A stored evaluation that is not what this module writes."""


@dataclass(frozen=True)
class PredictorScores:
    """What one predictor was worth on the rows of a period.

    `predictor` is the model's training job, or REFERENCE, which has no `partition` and no `age` (in
    periods). Of the scored `rows`, `unknown_class` have a class that the predictor doesn't know, and
    count against it; `not_finite` have a prediction that is missing or infinite. Where there are any
    of those, or no rows at all, error and bias are NaN.
    """

    predictor: str
    partition: str | None
    age: int | None
    warm_up: bool
    rows: int
    unknown_class: int
    error: Interval
    bias: Interval
    not_finite: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A predictor that could not be scored, and why."""

    predictor: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """The scores of a period's models and of the reference, youngest model first, reference last.

    `rows` are the period's rows whose label was known by `known_by` (naive, in the model's time zone;
    None takes every label there is), and `unlabelled` are the others. `labels_version` differs between
    different labels, as long as `labels_algorithm` is the same. `key` is the folder in object storage.
    `evaluated_at` is in UTC. `from_predictions` of the rows were not predicted anew for the model whose
    predictions of the period are stored.
    """

    model: str
    partition: str
    evaluated_at: datetime
    metric: str
    key: str
    rows: int
    scores: tuple[PredictorScores, ...]
    left_out: tuple[LeftOut, ...] = ()
    run_id: str | None = None
    known_by: datetime | None = None
    unlabelled: int = 0
    labels_version: str | None = None
    labels_algorithm: str | None = None
    from_predictions: int = 0

    @property
    def awaits_labels(self) -> bool:
        """Whether nothing is known of the period yet, though it has rows."""
        return self.unlabelled > 0 and self.rows == 0


def read_evaluations(storage: Storage, model: str) -> list[Evaluation]:
    """The newest evaluation of each period, by period. Raises CorruptEvaluation."""
    newest: dict[str, str] = {}
    for partition, key in _committed(storage, f"evaluations/{model}"):
        newest[partition] = max(key, newest.get(partition, ""))
    return [_read(storage, key) for _, key in sorted(newest.items())]


def evaluations_of(storage: Storage, model: str, partition: str) -> list[Evaluation]:
    """All evaluations of one period, oldest first. Raises CorruptEvaluation."""
    return [_read(storage, key) for key in evaluation_keys(storage, model, partition)]


def evaluation_keys(storage: Storage, model: str, partition: str) -> list[str]:
    """The keys of all evaluations of one period, oldest first."""
    return sorted(key for _, key in _committed(storage, f"evaluations/{model}/{partition}"))


def read_outcomes(
    storage: Storage, evaluation: Evaluation, predictors: Collection[str]
) -> dict[str, Outcomes]:
    """The outcomes of some predictors; those that the evaluation doesn't have are left out.

    Raises CorruptEvaluation, and KeyMissing where the evaluation was deleted.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = f"{evaluation.key}/{_OUTCOMES}"
    content = storage.read(key)
    try:
        table = pq.read_table(
            pa.BufferReader(content), filters=[("predictor", "in", list(predictors))]
        )
        return dict(_outcomes(table))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptEvaluation(
            f"{storage.uri(key)} holds no outcomes ({error}): remove {storage.uri(evaluation.key)}, "
            "and evaluate the period again"
        ) from error


def write_evaluation(
    storage: Storage, evaluation: Evaluation, outcomes: Mapping[str, Outcomes]
) -> Evaluation:
    """Commits an evaluation, and gives it with its key and the time that it is filed under.

    That is `evaluated_at`, unless the period has an evaluation of that time or later: a clock that
    was put back must not hide what was evaluated last.
    """
    folder = f"evaluations/{evaluation.model}/{evaluation.partition}"
    moment = evaluation.evaluated_at.astimezone(UTC)
    content = _outcomes_file(outcomes)
    while True:
        # Also one that was never finished: its folder is taken.
        stamps = [key.removeprefix(f"{folder}/").split("/")[0] for key in storage.list(folder)]
        latest = max((_moment(storage, folder, stamp) for stamp in stamps), default=None)
        if latest is not None and latest >= moment:
            moment = latest + timedelta(microseconds=1)
        key = f"{folder}/{moment.strftime(_STAMP)}"
        try:
            storage.create(f"{key}/{_OUTCOMES}", content)
        except KeyExists:
            continue  # another run evaluates the same period
        break
    filed = Evaluation(**{**vars(evaluation), "evaluated_at": moment, "key": key})
    storage.create(f"{key}/{_SCORES}", _scores_file(filed))
    return filed


def score_table(evaluation: Evaluation) -> "pa.Table":
    """The scores as a table, a predictor a row; what is undefined is null."""
    import pyarrow as pa

    rows = [
        {
            "predictor": scores.predictor,
            "training_period": scores.partition,
            "age": scores.age,
            "warm_up": scores.warm_up,
            "scored_rows": scores.rows,
            "unknown_class_rows": scores.unknown_class,
            "not_finite_rows": scores.not_finite,
            **_columns("error", scores.error),
            **_columns("bias", scores.bias),
        }
        for scores in evaluation.scores
    ]
    bounds = [f"{name}{part}" for name in ("error", "bias") for part in ("", "_low", "_high")]
    return pa.Table.from_pylist(
        rows,
        pa.schema(
            [
                ("predictor", pa.string()),
                ("training_period", pa.string()),
                ("age", pa.int64()),
                ("warm_up", pa.bool_()),
                ("scored_rows", pa.int64()),
                ("unknown_class_rows", pa.int64()),
                ("not_finite_rows", pa.int64()),
                *((name, pa.float64()) for name in bounds),
            ]
        ),
    )


def _columns(name: str, interval: Interval) -> dict[str, float | None]:
    figures = {
        name: interval.estimate,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }
    return {column: None if value != value else value for column, value in figures.items()}


def _interval(row: Mapping[str, Any], name: str) -> Interval:
    figures = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    return Interval(*(float("nan") if value is None else value for value in figures))


def _scores_file(evaluation: Evaluation) -> bytes:
    header = {
        "model": evaluation.model,
        "partition": evaluation.partition,
        "evaluated_at": evaluation.evaluated_at.isoformat(timespec="microseconds"),
        "metric": evaluation.metric,
        "rows": evaluation.rows,
        "left_out": [vars(left_out) for left_out in evaluation.left_out],
        "run_id": evaluation.run_id,
        "known_by": evaluation.known_by.isoformat() if evaluation.known_by else None,
        "unlabelled": evaluation.unlabelled,
        "labels_version": evaluation.labels_version,
        "labels_algorithm": evaluation.labels_algorithm,
        "from_predictions": evaluation.from_predictions,
    }
    table = score_table(evaluation)
    return _parquet([table.replace_schema_metadata({_HEADER: json.dumps(header).encode()})])


def _read(storage: Storage, key: str) -> Evaluation:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = f"{key}/{_SCORES}"
    content = storage.read(path)
    try:
        table = pq.read_table(pa.BufferReader(content))
        header = json.loads((table.schema.metadata or {})[_HEADER])
        known_by = header["known_by"]
        scores = tuple(
            PredictorScores(
                predictor=row["predictor"],
                partition=row["training_period"],
                age=row["age"],
                warm_up=row["warm_up"],
                rows=row["scored_rows"],
                unknown_class=row["unknown_class_rows"],
                error=_interval(row, "error"),
                bias=_interval(row, "bias"),
                not_finite=row["not_finite_rows"],
            )
            for row in table.to_pylist()
        )
        return Evaluation(
            model=header["model"],
            partition=header["partition"],
            evaluated_at=datetime.fromisoformat(header["evaluated_at"]),
            metric=header["metric"],
            key=key,
            rows=header["rows"],
            scores=scores,
            left_out=tuple(LeftOut(**left_out) for left_out in header["left_out"]),
            run_id=header["run_id"],
            known_by=datetime.fromisoformat(known_by) if known_by else None,
            unlabelled=header["unlabelled"],
            labels_version=header.get("labels_version"),
            labels_algorithm=header.get("labels_algorithm"),
            from_predictions=header.get("from_predictions", 0),
        )
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptEvaluation(
            f"{storage.uri(path)} is not an evaluation ({error}): remove {storage.uri(key)}, and "
            "evaluate the period again"
        ) from error


def _committed(storage: Storage, folder: str) -> Iterator[tuple[str, str]]:
    """(partition, key) of the committed evaluations under a folder."""
    for path in storage.list(folder):
        key, _, name = path.rpartition("/")
        if name == _SCORES:
            yield key.split("/")[-2], key


def _moment(storage: Storage, folder: str, stamp: str) -> datetime:
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        raise CorruptEvaluation(
            f"{storage.uri(f'{folder}/{stamp}')} doesn't belong there: evaluations are filed under "
            "their time, such as 20260102T030405123456Z. Remove it"
        ) from None


def _outcomes_file(outcomes: Mapping[str, Outcomes]) -> bytes:
    """A row group for each predictor, so that one is read without the others."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("predictor", pa.dictionary(pa.int32(), pa.string())),
            ("row", pa.string()),
            ("split", pa.dictionary(pa.int32(), pa.string())),
            ("actual", pa.float64()),
            ("predicted", pa.list_(pa.float64())),
        ]
    )
    tables = [schema.empty_table()]
    for predictor, its in outcomes.items():
        width = its.predicted.shape[1] if its.predicted.ndim == 2 else 1
        offsets = pa.array(range(0, width * len(its) + 1, width), pa.int32())
        values = pa.array(its.predicted.ravel(), pa.float64())
        columns = [
            pa.array([predictor] * len(its)).cast(schema.field("predictor").type),
            pa.array(its.rows.tolist(), pa.string()),
            pa.array(its.splits.tolist(), pa.string()).cast(schema.field("split").type),
            pa.array(its.actual, pa.float64()),
            pa.ListArray.from_arrays(offsets, values),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=schema))
    return _parquet(tables)


def _outcomes(table: "pa.Table") -> Iterator[tuple[str, Outcomes]]:
    import numpy as np
    import pyarrow as pa

    predictors = np.array(table["predictor"].to_pylist(), dtype=str)
    for predictor in dict.fromkeys(predictors.tolist()):
        its = table.filter(pa.array(predictors == predictor))
        values = its["predicted"].combine_chunks().flatten().to_numpy()
        width = len(values) // its.num_rows
        yield (
            predictor,
            Outcomes(
                np.array(its["row"].to_pylist(), dtype=str),
                np.array(its["split"].to_pylist(), dtype=str),
                its["actual"].to_numpy(),
                values if width == 1 else values.reshape(-1, width),
            ),
        )


def _parquet(tables: "list[pa.Table]") -> bytes:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    with pq.ParquetWriter(content, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return content.getvalue()
