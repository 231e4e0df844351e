"""The rows of a split as prompts and completions, and as the tokens that a model sees.

A completion follows its prompt after one space, and ends with the tokenizer's end-of-text token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.shards import parquet_files, read_batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "prompt"
COMPLETION = "completion"

_BATCH_ROWS = 10_000
_KEPT_AT_THE_END = 8  # tokens of an over-long prompt: they hold the question


class InvalidExamples(ContainerError):
    """Rows whose prompt or completion is missing, blank, or no text."""


class OverlongCompletion(ContainerError):
    """A completion that leaves no room for its prompt."""


@dataclass(frozen=True)
class Example:
    """A row of the dataset."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Encoded:
    """An example in tokens. `cut` says that the prompt was too long and lost some."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    cut: bool

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def read_examples(folder: Path, split: str, check: Callable[[], None]) -> list[Example]:
    """The rows of all Parquet files under `folder`, in the order of their paths.

    `check` is called between batches, and may raise to end the reading. Raises CorruptShard,
    MissingColumn, and InvalidExamples with the number of rows that are wrong.
    """
    examples: list[Example] = []
    wrong = {PROMPT: 0, COMPLETION: 0}
    for path in parquet_files(folder):
        for batch in read_batches(path, (PROMPT, COMPLETION), _BATCH_ROWS):
            check()
            columns = {name: _texts(batch, name, path) for name in wrong}
            for name, texts in columns.items():
                wrong[name] += sum(not text for text in texts)
            examples += map(Example, columns[PROMPT], columns[COMPLETION])
    found = [f"{count} an empty {name}" for name, count in wrong.items() if count]
    if found:
        raise InvalidExamples(
            f"of {len(examples)} rows of the split {split}, {' and '.join(found)}: leave such rows "
            "out in the dbt model, or let the column be null where it is the target"
        )
    return examples


def encode(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> list[Encoded]:
    """Examples in tokens, at most `max_tokens` each.

    A longer prompt loses tokens before its last eight: the end holds the question, and what stands
    before it is the end of the text that is asked about. Raises OverlongCompletion.
    """
    prompts = encode_prompts([example.prompt for example in examples], tokenizer)
    encoded = []
    for example, prompt in zip(examples, prompts, strict=True):
        completion = encode_completion(example.completion, tokenizer)
        room = max_tokens - len(completion)
        if room < 2 * _KEPT_AT_THE_END:
            raise OverlongCompletion(
                f"the completion {_short(example.completion)!r} takes {len(completion)} tokens of "
                f"the {max_tokens} that max_tokens allows, and its prompt needs at least "
                f"{2 * _KEPT_AT_THE_END}: raise max_tokens, or shorten the completion"
            )
        encoded.append(Encoded(cut_prompt(prompt, room), completion, len(prompt) > room))
    return encoded


def encode_prompts(
    prompts: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> list[Sequence[int]]:
    """Prompts in tokens. An empty one is the token that ends a text: a model needs one to go on from."""
    if not prompts:
        return []
    end = cast(int, tokenizer.eos_token_id)
    return [ids or [end] for ids in tokenizer(list(prompts))["input_ids"]]


def encode_completion(completion: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """A completion in tokens: the space before it belongs to its first, the last one ends it."""
    ids = tokenizer(" " + completion, add_special_tokens=False)["input_ids"]
    return (*ids, cast(int, tokenizer.eos_token_id))


def cut_prompt(ids: Sequence[int], room: int) -> tuple[int, ...]:
    """At most `room` of the tokens: the first ones, and the last eight."""
    if len(ids) <= room:
        return tuple(ids)
    return (*ids[: room - _KEPT_AT_THE_END], *ids[-_KEPT_AT_THE_END:])


def instructed(prompt: str, instruction: str) -> str:
    """A prompt with an instruction on a line before it."""
    return f"{instruction}\n{prompt}" if instruction else prompt


def count_tokens(text: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The tokens of a text, which may be empty."""
    return len(tokenizer(text)["input_ids"]) if text else 0


def _texts(batch: pa.RecordBatch, name: str, path: Path) -> list[str]:
    """A column's texts without the white space around them; empty where there is none."""
    column = batch.column(name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidExamples(f"{path}: the column {name!r} is {column.type}, expected text")
    return [(text or "").strip() for text in column.to_pylist()]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
