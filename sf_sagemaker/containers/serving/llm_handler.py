"""Fine-tuned language models behind an endpoint: prompts in, answers out, in JSON.

`{"instances": [{"prompt": …}, …]}` is answered by `{"predictions": [{"prediction": …}, …]}`. Where the
model was trained on a list of answers, the prediction is the likeliest of them, with its `probability`
and the `probabilities` of all; otherwise it is what the model writes. An instance with a `completion`
too gets the `loss` of that completion after the prompt, in nats.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sf_sagemaker.containers.llm.examples import OverlongCompletion
from sf_sagemaker.containers.llm.model import LanguageModel
from sf_sagemaker.containers.serving.requests import (
    JSON,
    RequestRefused,
    answer_type,
    check_names,
    excerpt,
    finite,
    instances,
    media_type,
    to_json,
)

MAX_INSTANCES = 64  # an answer must be there within a minute, on SageMaker
_PROMPT, _COMPLETION = "prompt", "completion"


class LanguageModelHandler:
    """Answers requests with one model. One thread at a time."""

    inline_bytes = 0

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def answer(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer to a body, and its content type. Raises RequestRefused."""
        answer_type(accept, media_type(content_type, (JSON,)), (JSON,))
        rows = instances(body)
        if len(rows) > MAX_INSTANCES:
            raise RequestRefused(
                f"{len(rows)} rows are more than this model answers at once: send up to "
                f"{MAX_INSTANCES}"
            )
        for number, row in enumerate(rows, start=1):
            names = (_PROMPT, _COMPLETION) if _COMPLETION in row else (_PROMPT,)
            check_names(number, row, names)
            for name in names:
                _check_text(number, name, row[name])
        predictions = self._predictions([row[_PROMPT].strip() for row in rows])
        self._add_losses(rows, predictions)
        return to_json(predictions), JSON

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
                [rows[number][_PROMPT].strip() for number in completed],
                [rows[number][_COMPLETION].strip() for number in completed],
            )
        except OverlongCompletion as error:
            raise RequestRefused(str(error)) from None
        for number, loss in zip(completed, losses.tolist(), strict=True):
            predictions[number]["loss"] = finite(loss)


def _check_text(number: int, name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise RequestRefused(f"row {number}: {name!r} is {excerpt(value)}: expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestRefused(
            f"row {number}: {name!r} has half of a surrogate pair, which is no character"
        ) from None
