"""Fine-tuned language models behind an endpoint: prompts in, answers out, in JSON or JSON Lines.

`{"instances": [{"prompt": …}, …]}` is answered by `{"predictions": [{"prediction": …}, …]}`. Where the
model was trained on a list of answers, the prediction is the likeliest of them, with its `probability`
and the `probabilities` of all; otherwise it is what the model writes. An instance with a `completion`
too gets the `loss` of that completion after the prompt, in nats. JSON Lines have an instance, and a
prediction, in each line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sf_sagemaker.containers.llm.examples import OverlongCompletion
from sf_sagemaker.containers.llm.model import LanguageModel
from sf_sagemaker.containers.llm.model_card import LEAST_ANSWER_TOKENS
from sf_sagemaker.containers.serving.requests import (
    JSON,
    JSON_LINES,
    RequestRefused,
    answer_type,
    check_names,
    excerpt,
    finite,
    instances,
    media_type,
    to_json,
)

# An answer must be there within a minute, on SageMaker. A model that writes more than short answers
# takes fewer at once.
MAX_INSTANCES = 64
_PROMPT, _COMPLETION = "prompt", "completion"
_TYPES = (JSON, JSON_LINES)


class LanguageModelHandler:
    """Answers requests with one model. One thread at a time.

    With `batch`, requests are those of a batch transform, which may be larger and take longer. There
    a prompt may be empty, or null: refusing one row would fail the job of all of them.
    """

    inline_bytes = 0

    def __init__(self, model: LanguageModel, *, batch: bool = False) -> None:
        self.model = model
        self._batch = batch
        written = 0 if model.card.answers else model.card.answer_tokens
        self._most = max(
            1, MAX_INSTANCES * LEAST_ANSWER_TOKENS // max(LEAST_ANSWER_TOKENS, written)
        )

    def answer(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer to a body, and its content type. Raises RequestRefused."""
        asked_in = media_type(content_type, _TYPES)
        answer_in = answer_type(accept, asked_in, _TYPES)
        rows = instances(body, asked_in)
        if len(rows) > self._most and not self._batch:
            raise RequestRefused(
                f"{len(rows)} rows are more than this model answers at once: send up to "
                f"{self._most}"
            )
        for number, row in enumerate(rows, start=1):
            names = (_PROMPT, _COMPLETION) if _COMPLETION in row else (_PROMPT,)
            check_names(number, row, names)
            for name in names:
                if not (self._batch and name == _PROMPT and _is_empty(row[name])):
                    _check_text(number, name, row[name])
        predictions: list[dict[str, Any]] = []
        for start in range(0, len(rows), self._most):
            part = rows[start : start + self._most]
            answered = self._predictions([_prompt(row) for row in part])
            self._add_losses(part, answered)
            predictions += answered
        return to_json(predictions, answer_in), answer_in

    def _predictions(self, prompts: Sequence[str]) -> list[dict[str, Any]]:
        answers = self.model.card.answers
        if not answers:
            return [{"prediction": text} for text in self.model.generate(prompts)]
        probabilities = self.model.answer_probabilities(prompts).tolist()
        return [
            {
                "prediction": answers[max(range(len(row)), key=row.__getitem__)],
                "probability": finite(max(row)),
                "probabilities": dict(zip(answers, map(finite, row), strict=True)),
            }
            for row in probabilities
        ]

    def _add_losses(
        self, rows: Sequence[Mapping[str, Any]], predictions: list[dict[str, Any]]
    ) -> None:
        completed = [number for number, row in enumerate(rows) if _COMPLETION in row]
        if not completed:
            return
        try:
            losses = self.model.completion_loss(
                [_prompt(rows[number]) for number in completed],
                [rows[number][_COMPLETION].strip() for number in completed],
            )
        except OverlongCompletion as error:
            raise RequestRefused(str(error)) from None
        for number, loss in zip(completed, losses.tolist(), strict=True):
            predictions[number]["loss"] = finite(loss)


def _prompt(row: Mapping[str, Any]) -> str:
    return (row[_PROMPT] or "").strip()


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check_text(number: int, name: str, value: object) -> None:
    if not isinstance(value, str) or _is_empty(value):
        raise RequestRefused(f"row {number}: {name!r} is {excerpt(value)}: expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestRefused(
            f"row {number}: {name!r} has half of a surrogate pair, which is no character"
        ) from None
