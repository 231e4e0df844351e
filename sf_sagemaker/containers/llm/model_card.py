"""The model card of a fine-tuned language model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.model_card import CARD_FILE, InvalidModelCard, read_card, write_card

LEAST_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class GoldenRow:
    """A prompt, a completion, and the loss of that completion when the model was trained, in nats."""

    prompt: str
    completion: str
    loss: float


@dataclass(frozen=True)
class Sample:
    """A row of the test split, as the base answers when it is told the answers, and the model.

    `before` and `after` are what the two write by themselves.
    """

    prompt: str
    completion: str
    before: str
    after: str


@dataclass(frozen=True)
class ModelCard:
    """All there is to know of a model, without timestamps: equal trainings have equal cards.

    `base_model` is {"name", "digest"}. `answers` are the completions of the train split where they
    are a fixed list, and empty otherwise. `metrics` are {split: {metric: value}}, `prompted_base`
    the same for the base with `instruction` on a line before each prompt, and `confusion` {split: {"answers",
    "counts"}}, by actual answer and answer given. `unseen_completions` counts, by split, rows whose
    completion the train split doesn't have, `cut_prompts` rows whose prompt was longer than
    max_tokens allows. `answer_tokens` bounds what the model writes by itself: the tokens of the longest
    completion of the train split, with its end, and at least 16. `precision` is that of the base's
    weights, float32 or bfloat16. `learning_curve` is {split: {"step": […], "loss": […]}}, in nats by token.
    """

    model: str
    partition: str
    dataset: Mapping[str, Any]
    base_model: Mapping[str, str]
    task: str
    hyperparameters: Mapping[str, str]
    answers: tuple[str, ...]
    instruction: str
    max_tokens: int
    steps: int
    trainable_parameters: int
    metrics: Mapping[str, Mapping[str, float]]
    prompted_base: Mapping[str, Mapping[str, float]]
    confusion: Mapping[str, Mapping[str, Any]]
    unseen_completions: Mapping[str, Mapping[str, int]]
    cut_prompts: Mapping[str, int]
    samples: tuple[Sample, ...]
    learning_curve: Mapping[str, Mapping[str, list[float]]]
    library_versions: Mapping[str, str]
    golden_rows: tuple[GoldenRow, ...]
    seed: int
    instance_count: int
    precision: str = "float32"
    answer_tokens: int = LEAST_ANSWER_TOKENS

    def write(self, folder: Path) -> None:
        """Writes the card into a model's folder. Numbers that JSON doesn't have become null."""
        write_card(folder, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "ModelCard":
        """The card in a model's folder. Raises InvalidModelCard."""
        content = read_card(folder)
        try:
            content["answers"] = tuple(content["answers"])
            content["samples"] = tuple(Sample(**row) for row in content["samples"])
            content["golden_rows"] = tuple(GoldenRow(**row) for row in content["golden_rows"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise InvalidModelCard(
                f"{folder / CARD_FILE} is not the card of a language model: {error}"
            ) from error
