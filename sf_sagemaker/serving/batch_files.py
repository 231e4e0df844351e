"""The files that a batch transform job reads and writes: a period's rows, and their predictions.

Rows go to object storage as JSON Lines, `{"row": 17, "features": {…}}`, in parts; beside each part, a
Parquet file has the key columns of its rows in the same order. A row's number comes back with its
prediction, so that each prediction belongs to its row whatever the order of lines, and a row without one,
or with two, is an error. The keys themselves keep the warehouse's types, and don't leave for the model.

    transforms/<model>/<partition>/<digest>/export.json    written last: what makes it an export
    transforms/<model>/<partition>/<digest>/<attempt>/rows/part-00000.jsonl
    transforms/<model>/<partition>/<digest>/<attempt>/keys/part-00000.parquet
    transforms/<model>/<partition>/<digest>/output/<job>/part-00000.jsonl.out
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sf_sagemaker.serving.batch import PeriodRows, ScoredRows, StagedRows
from sf_sagemaker.serving.errors import ServingError
from sf_sagemaker.storage import KeyExists, KeyMissing, Storage
from sf_sagemaker.training.job import short_digest

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "transforms"
OUTPUT = "SageMakerOutput"  # what batch transform calls a prediction that it joins to its row

_EXPORT = "export.json"
_OUTPUT_FOLDER = "output"


class UnsendableValue(ServingError):
    """A value that JSON has no number for."""

    permanent = True


class PredictionsIncomplete(ServingError):
    """The output of a transform job that doesn't have one prediction for each row."""


@dataclass(frozen=True)
class Part:
    """A part of an export: its name, and how many rows it has."""

    name: str
    rows: int


@dataclass(frozen=True)
class Export:
    """Rows in storage. `folder` is the key of the attempt that wrote them, `digest` of what they are."""

    digest: str
    folder: str
    rows: int
    parts: tuple[Part, ...]

    @property
    def input_key(self) -> str:
        """The folder of the rows."""
        return f"{self.folder}/rows"


def export_rows(storage: Storage, rows: PeriodRows, staged: StagedRows, part_rows: int) -> Export:
    """The rows in storage, unless the very same are there already: then those.

    Rows pass through in batches of `part_rows`, each a part. Raises UnsendableValue, and what reading
    and storing raise; what this attempt wrote is then gone.
    """
    deciding = {
        "rows": staged.fingerprint.model_dump(),
        "kept": rows.kept,
        "features": rows.features,
    }
    digest = short_digest(deciding)
    folder = f"{FOLDER}/{rows.spec.model}/{rows.period.key}/{digest}"
    found = _committed(storage, folder)
    if found is not None:
        return found
    attempt = f"{folder}/{uuid.uuid4().hex}"
    committed = False
    try:
        parts = tuple(_write_parts(storage, attempt, rows, staged.batches(part_rows)))
        export = Export(digest, attempt, sum(part.rows for part in parts), parts)
        if export.rows != staged.rows:
            raise PredictionsIncomplete(
                f"{export.rows:,} rows were written to {storage.uri(attempt)}, and the warehouse "
                f"counted {staged.rows:,}: run again"
            )
        try:
            storage.create(f"{folder}/{_EXPORT}", json.dumps(asdict(export)).encode())
            committed = True
        except KeyExists:  # another run exported the same meanwhile
            export = _committed(storage, folder) or export
            committed = export.folder == attempt
    finally:
        if not committed:
            storage.delete(attempt)
    return export


def read_output(storage: Storage, export: Export, output_folder: str) -> Iterator[ScoredRows]:
    """The predictions of all rows, a part at a time, from what a transform job wrote.

    Raises PredictionsIncomplete.
    """
    outputs = output_keys(storage, output_folder)
    missing = [part.name for part in export.parts if part.name not in outputs]
    if missing:
        raise PredictionsIncomplete(
            f"{storage.uri(output_folder)} lacks the output of {len(missing)} of "
            f"{len(export.parts)} parts, {missing[0]} first: nothing was written. Delete that folder, "
            "and run again to score anew"
        )
    for part in export.parts:
        yield _scored(storage, export, part, outputs[part.name])


def output_keys(storage: Storage, folder: str) -> Mapping[str, str]:
    """The keys of a job's output by the name of the part that they are of.

    By name alone: the service may put a part of the input's path before it.
    """
    return {
        key.rsplit("/", 1)[-1].removesuffix(".jsonl.out"): key
        for key in storage.list(folder)
        if key.endswith(".jsonl.out")
    }


def jobs_with_output(storage: Storage, model: str, partition: str) -> Iterator[str]:
    """The names of the transform jobs that left predictions of a period, as far as they are kept."""
    found: set[str] = set()
    for key in storage.list(f"{FOLDER}/{model}/{partition}"):
        _, _, _, _, kind, name, *_ = [*key.split("/"), "", ""]
        if kind == _OUTPUT_FOLDER and name not in found:
            found.add(name)
            yield name


def output_key(model: str, partition: str, export: Export, name: str) -> str:
    """The folder of what the transform job of that name writes."""
    return f"{FOLDER}/{model}/{partition}/{export.digest}/{_OUTPUT_FOLDER}/{name}"


def _committed(storage: Storage, folder: str) -> Export | None:
    """The export in a folder, with all its files; one that has lost some is removed."""
    try:
        content = json.loads(storage.read(f"{folder}/{_EXPORT}"))
    except KeyMissing:
        return None
    parts = tuple(Part(**part) for part in content.pop("parts"))
    export = Export(**content, parts=parts)
    there = set(storage.list(export.folder))
    wanted = {key for part in parts for key in _keys(export.folder, part.name)}
    if wanted <= there:
        return export
    storage.delete(f"{folder}/{_EXPORT}")
    return None


def _keys(folder: str, part: str) -> tuple[str, str]:
    return f"{folder}/rows/{part}.jsonl", f"{folder}/keys/{part}.parquet"


def _write_parts(
    storage: Storage, folder: str, rows: PeriodRows, batches: Iterator["pa.RecordBatch"]
) -> Iterator[Part]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        part = Part(f"part-{number:05d}", batch.num_rows)
        number += 1
        lines_key, keys_key = _keys(folder, part.name)
        with storage.write(lines_key) as file:
            file.write(json_lines(batch, rows.features))
        with storage.write(keys_key) as file:
            pq.write_table(pa.Table.from_batches([batch]).select(list(rows.kept)), file)
        yield part


def json_lines(batch: "pa.RecordBatch", features: Sequence[str]) -> "pa.Buffer":
    """The rows as JSON Lines, put together a column at a time: a row at a time takes far longer.

    Raises UnsendableValue.
    """
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made at import
    numbers = pc.cast(pa.array(range(batch.num_rows), pa.int64()), pa.large_string())
    pieces: list[Any] = ['{"row":', numbers, ',"features":{']
    for place, name in enumerate(features):
        pieces += [f"{',' if place else ''}{json.dumps(name)}:", _as_json(batch.column(name), name)]
    pieces = [
        pa.scalar(piece, pa.large_string()) if isinstance(piece, str) else piece
        for piece in [*pieces, "}}\n"]
    ]
    lines = pc.binary_join_element_wise(*pieces, pa.scalar("", pa.large_string()))
    # The texts of an array lie one behind the other.
    return lines.buffers()[2]


def _as_json(column: "pa.Array", name: str) -> "pa.Array":
    """A column's values as JSON has them: what is missing, or not a number, is null."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    text = pa.large_string()
    if pa.types.is_floating(column.type):
        if pc.any(pc.is_inf(column)).as_py():
            raise UnsendableValue(
                f"column {name!r} has infinite values: expected finite numbers. Turn them into null in "
                "the dbt model"
            )
        # The shortest digits that are this number and no other one, of as many bits as it has.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        values = pc.cast(column, text)
    elif pa.types.is_integer(column.type):
        values = pc.cast(column, text)
    else:
        encoded = pc.dictionary_encode(pc.cast(column, text))
        # In ASCII, so that no character of a text can be taken for the end of a line.
        levels = [json.dumps(level) for level in encoded.dictionary.to_pylist()]
        values = pa.array(levels, text).take(encoded.indices)
    return pc.fill_null(values, "null")


def _scored(storage: Storage, export: Export, part: Part, output: str) -> ScoredRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open(_keys(export.folder, part.name)[1]) as file:
        kept = pq.read_table(pa.PythonFile(file, mode="r"))
    predictions: list[Any] = [None] * part.rows
    probabilities: list[float | None] = [None] * part.rows
    uri = storage.uri(output)
    with storage.open(output) as file:
        for line in file.read().split(b"\n"):
            if not line.strip():
                continue
            row, prediction, probability = _parsed(line, uri, part)
            if predictions[row] is not None:
                raise PredictionsIncomplete(f"{uri} has two predictions of row {row}{_REMEDY}")
            predictions[row], probabilities[row] = prediction, probability
    lacking = [row for row, prediction in enumerate(predictions) if prediction is None]
    if lacking:
        raise PredictionsIncomplete(
            f"{uri} has no prediction of {len(lacking)} of {part.rows} rows, {lacking[0]} first"
            f"{_REMEDY}"
        )
    texts = [isinstance(prediction, str) for prediction in predictions]
    if any(texts) != all(texts):
        raise PredictionsIncomplete(f"{uri} predicts texts and numbers{_REMEDY}")
    known = [probability is not None for probability in probabilities]
    if any(known) != all(known):
        raise PredictionsIncomplete(f"{uri} has probabilities of some rows only{_REMEDY}")
    return ScoredRows(
        kept,
        pa.array(predictions, pa.string() if all(texts) else pa.float64()),
        pa.array(probabilities, pa.float64()) if all(known) else None,
    )


_REMEDY = ": nothing was written. Look at the job's log, delete its output, and run again"


def _parsed(line: bytes, uri: str, part: Part) -> tuple[int, Any, float | None]:
    """(row, prediction, probability) of a line of output. Raises PredictionsIncomplete."""
    try:
        content = json.loads(line)
        row, output = content["row"], content[OUTPUT]
        prediction, probability = output["prediction"], output.get("probability")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PredictionsIncomplete(
            f"{uri} has a line that is no row with its prediction: {line[:200]!r}{_REMEDY}"
        ) from None
    if not isinstance(row, int) or not 0 <= row < part.rows:
        raise PredictionsIncomplete(
            f"{uri} has a prediction of row {row!r}: expected 0 to {part.rows - 1}{_REMEDY}"
        )
    if not isinstance(prediction, str | int | float):
        raise PredictionsIncomplete(
            f"{uri} predicts {prediction!r} for row {row}: expected a number or a text{_REMEDY}"
        )
    return row, prediction, probability
