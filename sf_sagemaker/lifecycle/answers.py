"""Models that are asked for their answers, and can't be loaded where they are evaluated.

What they write is all that is known of them: there is no probability of a completion. So they are judged
by the share of right answers, and so is the reference beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.outcomes import Outcomes, Predictor
from sf_sagemaker.lifecycle.scorers import row_digests, row_texts
from sf_sagemaker.lifecycle.text_baselines import WordModel, fit_word_model
from sf_sagemaker.warehouse.dataset import DatasetSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class NotAnswered(SfSagemakerError):
    """A model that gives no usable answers, however often it is asked."""

    permanent = True


class CannotAsk(SfSagemakerError):
    """A model that was to be evaluated where nothing is there to ask it."""

    permanent = True


# What a model writes after each prompt, without the white space around it.
Ask = Callable[[Sequence[str]], Sequence[str]]


class Answers(Protocol):
    """Where models are asked for their answers."""

    def of(self, artifact: Path) -> Ask:
        """Asks the model of an artifact, which the platform's `fetch_artifact` gave and is read now.

        Asking raises NotAnswered for a model that doesn't answer, and PlatformUnavailable.
        """
        ...


@dataclass(frozen=True)
class AnswerMeasure:
    """Judges answers that are right or wrong: outcomes have `predicted` (n,), 1 where it is right.

    Bias is the share of wrong answers less that of the reference's.
    """

    @property
    def metric(self) -> str:
        return "exact_match"

    @property
    def of_classes(self) -> bool:
        return False

    def errors(self, outcomes: Outcomes, samples: "np.ndarray") -> "np.ndarray":
        return _means(1 - outcomes.predicted, samples)

    def biases(
        self, outcomes: Outcomes, reference: Outcomes, samples: "np.ndarray"
    ) -> "np.ndarray":
        return _means(reference.predicted - outcomes.predicted, samples)


@dataclass(frozen=True)
class AnswerScorer:
    """Scores models by asking them through `answers`; without it, only the reference can be fitted."""

    spec: DatasetSpec
    answers: Answers | None = None

    @property
    def measure(self) -> AnswerMeasure:
        return AnswerMeasure()

    @property
    def held(self) -> int:
        return 64

    def load(self, artifact: Path) -> Predictor:
        """The model of an artifact, to be asked. Raises CannotAsk."""
        return _Asked(self.asking(artifact), self.spec.row_key)

    def asking(self, artifact: Path) -> Ask:
        """Asks the model of an artifact. Raises CannotAsk, and what reading the artifact does."""
        if self.answers is None:
            raise CannotAsk(f"nothing here asks the models of {self.spec.model} for their answers")
        return self.answers.of(artifact)

    def fit_reference(self, train: "pa.Table") -> Predictor:
        """A model of the words of the prompts. Raises NoRows."""
        return _Words(fit_word_model(*row_texts(train)), self.spec.row_key)


@dataclass(frozen=True)
class _Asked:
    """A model that is asked."""

    ask: Ask
    row_key: tuple[str, ...]

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        prompts, completions = row_texts(rows)
        return _outcomes(rows, self.row_key, self.ask(prompts), completions)


@dataclass(frozen=True)
class _Words:
    """The reference."""

    words: WordModel
    row_key: tuple[str, ...]

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        prompts, completions = row_texts(rows)
        return _outcomes(rows, self.row_key, self.words.predict(prompts), completions)


def _outcomes(
    rows: "pa.Table", row_key: Sequence[str], given: Sequence[str], right: Sequence[str]
) -> Outcomes:
    import numpy as np

    matched = [float(answer == text) for answer, text in zip(given, right, strict=True)]
    return Outcomes(
        row_digests(rows, row_key),
        np.array(rows["split"].to_pylist(), dtype=str),
        np.ones(len(matched)),
        np.array(matched, dtype=np.float64),
    )


def _means(values: "np.ndarray", samples: "np.ndarray") -> "np.ndarray":
    """The mean of each sample; NaN where a value is undefined, or there is none."""
    import numpy as np

    if not (samples.size and np.isfinite(values).all()):
        return np.full(len(samples), np.nan)
    return values[samples].mean(axis=1)
