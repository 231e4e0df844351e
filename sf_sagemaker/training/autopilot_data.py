"""A dataset as Autopilot reads it for fine-tuning, checked against its documented limits first.

Parquet files with exactly the columns `input` and `output`, a folder for each channel. The limits are
on https://docs.aws.amazon.com/sagemaker/latest/dg/autopilot-llms-finetuning-data-format.html.

Base models count in tokens of their own, which aren't known here. Of English text a token holds two to
six bytes (as measured with SmolLM2's tokenizer: 2.0 to 5.9 in the remarks of bird-strike reports in
lower case, half of them below 3.4). So a dataset is refused where too many rows would be cut even with
six bytes a token, and a notice is given where they would be with two.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.storage import KeyExists, Storage
from sf_sagemaker.training.autopilot_models import BASE_MODELS, DEFAULT_BASE_MODEL

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ChannelName = Literal["training", "validation"]
# Batches with the columns prompt and completion, read anew at each call.
Rows = Callable[[], Iterable["pa.RecordBatch"]]

_PROMPT, _COMPLETION = "prompt", "completion"
_RECOMMENDED_ROWS = 1_000
_MOST_TRUNCATED = 0.6  # of the rows; more, and the job fails
_LONGEST_TOKEN, _SHORTEST_TOKEN = 6, 2  # bytes
_FILE = "examples.parquet"


class DatasetUnfit(SfSagemakerError):
    """A dataset that Autopilot's job would fail on."""

    permanent = True


@dataclass(frozen=True)
class AutopilotData:
    """The storage folders of the channels, and what a person should know about the rows."""

    training: str
    validation: str | None
    notices: tuple[str, ...]


@dataclass
class _Counts:
    """`over` counts rows with a cell of more bytes than a limit, by that limit."""

    rows: int
    over: dict[int, int]


def prepare_data(
    storage: Storage,
    folder: str,
    channels: Mapping[ChannelName, Rows],
    *,
    base_model: str | None = None,
) -> AutopilotData:
    """Checks the rows of the channels and writes those that aren't there yet, all in constant memory.

    `folder` follows from the rows: what lies there was written from the same ones. A validation
    channel without rows is left out. Raises DatasetUnfit before anything is written.
    """
    name = base_model or DEFAULT_BASE_MODEL
    known = BASE_MODELS.get(name)
    context = known.context if known else None
    counts: dict[ChannelName, _Counts] = {
        channel: _count(rows, context) for channel, rows in channels.items()
    }
    training = counts["training"]
    total = sum(each.rows for each in counts.values())
    if not training.rows:
        raise DatasetUnfit("the dataset has no training rows: Autopilot has nothing to learn from")
    notices = []
    if known is None or context is None:
        notices.append(
            f"base model {name} is not among those whose limits are documented "
            f"({', '.join(BASE_MODELS)}): rows and lengths were not checked against any"
        )
    else:
        if total > known.rows:
            raise DatasetUnfit(
                f"{total:,} rows of training and validation are more than the {known.rows:,} that "
                f"Autopilot takes for {name}: lower sample.fraction, shorten sample.window, or choose "
                "a base model that takes more"
            )
        notices += _truncation(counts.values(), total, name, context)
    if total < _RECOMMENDED_ROWS:
        notices.append(
            f"{total:,} rows are fewer than the {_RECOMMENDED_ROWS:,} that Autopilot's documentation "
            "recommends"
        )
    validation = counts.get("validation")
    if not validation or not validation.rows:
        notices.append("there are no validation rows: Autopilot takes a fifth of the training rows")
    keys: dict[ChannelName, str] = {
        channel: _write(storage, f"{folder}/{channel}", channels[channel])
        for channel, each in counts.items()
        if each.rows
    }
    return AutopilotData(keys["training"], keys.get("validation"), tuple(notices))


def _count(rows: Rows, context: int | None) -> _Counts:
    import numpy as np

    limits = () if context is None else (context * _LONGEST_TOKEN, context * _SHORTEST_TOKEN)
    counts = _Counts(0, dict.fromkeys(limits, 0))
    for batch in rows():
        counts.rows += batch.num_rows
        longest = np.maximum(_lengths(batch, _PROMPT), _lengths(batch, _COMPLETION))
        for limit in limits:
            counts.over[limit] += int((longest > limit).sum())
    return counts


def _lengths(batch: "pa.RecordBatch", name: str) -> "np.ndarray":
    import pyarrow.compute as pc

    lengths = pc.call_function("binary_length", [_texts(batch, name)])
    return lengths.to_numpy(zero_copy_only=False)


def _texts(batch: "pa.RecordBatch", name: str) -> "pa.Array":
    """The cells without the white space around them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.call_function("utf8_trim_whitespace", [batch.column(name).cast(pa.string())])


def _truncation(counts: Iterable[_Counts], total: int, name: str, context: int) -> Iterator[str]:
    """Raises DatasetUnfit where too many rows are too long for certain; says where it may be so."""
    counts = list(counts)
    surely, possibly = (
        sum(its.over[context * size] for its in counts) / total
        for size in (_LONGEST_TOKEN, _SHORTEST_TOKEN)
    )
    if surely > _MOST_TRUNCATED:
        raise DatasetUnfit(
            f"{surely:.0%} of the rows have an input or output longer than the {context} tokens of "
            f"{name}, counted at {_LONGEST_TOKEN} bytes a token; Autopilot cuts such rows, and fails "
            f"where they are more than {_MOST_TRUNCATED:.0%}: shorten prompts in the dbt model, or "
            "choose a base model with a longer context"
        )
    if possibly > _MOST_TRUNCATED:
        yield (
            f"between {surely:.0%} and {possibly:.0%} of the rows are longer than the {context} tokens "
            f"of {name} (at {_LONGEST_TOKEN} and at {_SHORTEST_TOKEN} bytes a token): Autopilot cuts "
            f"such rows, and fails where they are more than {_MOST_TRUNCATED:.0%}"
        )


def _write(storage: Storage, folder: str, rows: Rows) -> str:
    """The channel's folder, with its file in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = f"{folder}/{_FILE}"
    if next(storage.list(folder), None) is not None:
        return folder
    schema = pa.schema([("input", pa.string()), ("output", pa.string())])
    # Another run that has just written it wrote the same rows.
    with suppress(KeyExists), storage.write(key) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in rows():
            texts = [_texts(batch, name) for name in (_PROMPT, _COMPLETION)]
            writer.write_batch(pa.RecordBatch.from_arrays(texts, schema=schema))
    return folder
