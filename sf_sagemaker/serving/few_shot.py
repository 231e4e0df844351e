"""What a language model that isn't fine-tuned is told before a prompt, and what it must never be told.

Only a prompt is sent, and prompts with completions of training rows as examples. A row is withheld when
its prompt, or its completion where that would be sent, contains a value that it has in a listed column.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sf_sagemaker.warehouse.lookup import Key

_SPACE = re.compile(r"\s+")
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


@dataclass(frozen=True)
class Row:
    """A row of a dataset: its key, and its texts without white space around them."""

    key: Key
    prompt: str
    completion: str


Values = Mapping[Key, Sequence[str | None]]


def contains_a_value(text: str, values: Iterable[str | None]) -> bool:
    """Whether a text contains one of the values, whatever the case and the white space.

    Also within a word or a number: of two mistakes, sending nothing is the better one.
    """
    plain = _plain(text)
    return any(_plain_value(value) in plain for value in values if value and value.strip())


def may_send(row: Row, values: Values | None, *, completion: bool) -> bool:
    """Whether a row's prompt, and its completion, may be sent; `values` None: nothing is listed.

    A row that the source doesn't have any more can't be looked at, and isn't sent.
    """
    if values is None:
        return True
    own = values.get(row.key)
    if own is None:
        return False
    texts = [row.prompt, row.completion] if completion else [row.prompt]
    return not any(contains_a_value(text, own) for text in texts)


def barred_prompts(rows: Iterable[Row], values: Values | None) -> frozenset[str]:
    """The prompts that may not be sent for one of their rows, and so for none that has the same."""
    return frozenset(row.prompt for row in rows if not may_send(row, values, completion=False))


def allowed_answers(rows: Sequence[Row], values: Values | None, most: int) -> tuple[str, ...]:
    """The sorted completions of the training rows, where there are at most `most` of them.

    One that contains a listed value of a row that has it is left out.
    """
    answers = {row.completion for row in rows}
    if len(answers) > most:
        return ()
    if values is not None:
        answers -= {
            row.completion
            for row in rows
            if row.key not in values or contains_a_value(row.completion, values[row.key])
        }
    return tuple(sorted(answers))


def choose_examples(rows: Sequence[Row], shots: int, seed: int) -> tuple[tuple[str, str], ...]:
    """Pairs of prompt and completion: one of each completion in turn, the commonest first.

    Equal seeds choose equally; which row of a completion comes first is as good as random.
    """
    of_completion: dict[str, list[Row]] = defaultdict(list)
    for row in {row.prompt: row for row in rows}.values():
        of_completion[row.completion].append(row)
    commonest = sorted(of_completion, key=lambda name: (-len(of_completion[name]), name))
    for name in commonest:
        of_completion[name].sort(key=lambda row: _order(row.prompt, seed))
    chosen: list[Row] = []
    turn = 0
    while len(chosen) < shots and any(len(of_completion[name]) > turn for name in commonest):
        chosen += [
            of_completion[name][turn] for name in commonest if len(of_completion[name]) > turn
        ]
        turn += 1
    # In an order that says nothing: a model takes a pattern for a hint.
    return tuple(
        (row.prompt, row.completion)
        for row in sorted(chosen[:shots], key=lambda row: _order(row.prompt, seed + 1))
    )


def system_prompt(instruction: str | None, answers: Sequence[str]) -> str:
    """The instruction, if there is one, and what an answer looks like."""
    if answers:
        form = (
            f"Answer with one of these, exactly as written, and nothing else: {', '.join(answers)}."
        )
    else:
        form = "Write the answer alone, without an explanation."
    return f"{instruction.strip()}\n{form}" if instruction and instruction.strip() else form


def _order(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip().casefold()


def _plain_value(value: str) -> str:
    # A whole number in a column of floats is written without its zeros in a text.
    number = _WHOLE_NUMBER.fullmatch(value.strip())
    return _plain(number[1] if number else value)
