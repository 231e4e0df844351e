"""What a fine-tuned language model must beat: one answer to all prompts, and a model of words.

Both know the answers of the training rows and no others. They are scored as the language model is:
the share of right answers, and the log loss of the right one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sf_sagemaker.errors import SfSagemakerError

if TYPE_CHECKING:
    import numpy as np
    from sklearn.pipeline import Pipeline

_SMALLEST_PROBABILITY = 1e-6


class NoRows(SfSagemakerError):
    """A baseline without rows to learn from or to be scored on."""


class TextBaseline(Protocol):
    """A baseline that was fitted to prompts and completions. `answers` are sorted."""

    @property
    def answers(self) -> tuple[str, ...]: ...

    def predict(self, prompts: Sequence[str]) -> list[str]:
        """One of the answers to each prompt."""
        ...

    def probabilities(self, prompts: Sequence[str]) -> "np.ndarray":
        """float64 of shape (prompts, answers); rows add up to 1."""
        ...


@dataclass(frozen=True)
class ConstantAnswer:
    """Always the commonest answer, with the shares that the answers have in the training rows."""

    answers: tuple[str, ...]
    shares: tuple[float, ...]

    def predict(self, prompts: Sequence[str]) -> list[str]:
        commonest = max(zip(self.shares, self.answers, strict=True), key=lambda pair: pair[0])[1]
        return [commonest] * len(prompts)

    def probabilities(self, prompts: Sequence[str]) -> "np.ndarray":
        import numpy as np

        return np.tile(np.array(self.shares), (len(prompts), 1))


@dataclass(frozen=True)
class WordModel:
    """Logistic regression over TF-IDF of single words and pairs of them."""

    pipeline: "Pipeline"

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(self.pipeline.classes_.tolist())

    def predict(self, prompts: Sequence[str]) -> list[str]:
        return self.pipeline.predict(list(prompts)).tolist() if prompts else []

    def probabilities(self, prompts: Sequence[str]) -> "np.ndarray":
        import numpy as np

        if not prompts:
            return np.empty((0, len(self.answers)))
        return self.pipeline.predict_proba(list(prompts))


def fit_constant_answer(completions: Sequence[str]) -> ConstantAnswer:
    """The commonest of the completions. Raises NoRows."""
    if not completions:
        raise NoRows("there are no training rows to take the commonest answer from")
    counts = Counter(completions)
    answers = tuple(sorted(counts))
    return ConstantAnswer(answers, tuple(counts[a] / len(completions) for a in answers))


def fit_word_model(prompts: Sequence[str], completions: Sequence[str]) -> WordModel:
    """A model of the words of the prompts. Equal rows make equal models.

    Raises NoRows where there are fewer than two different completions.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(completions)) < 2:
        raise NoRows(
            f"{len(completions)} training rows have {len(set(completions))} different completions: "
            "expected at least two"
        )
    pipeline = make_pipeline(
        # also words of one character: reports number engines, and call left and right l and r
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        LogisticRegression(C=10, max_iter=2000),
    )
    pipeline.fit(list(prompts), list(completions))
    return WordModel(pipeline)


def score_answers(
    baseline: TextBaseline, prompts: Sequence[str], completions: Sequence[str]
) -> dict[str, float]:
    """`rows`, `exact_match` (a share) and `log_loss` (nats) of a baseline on rows.

    A completion that the training rows didn't have is never matched, and has one millionth as its
    probability, as has any other that seems still less likely. Raises NoRows without rows.
    """
    import numpy as np

    if not prompts:
        raise NoRows("there are no rows to score a baseline on")
    index = {answer: number for number, answer in enumerate(baseline.answers)}
    probabilities = baseline.probabilities(prompts)
    actual = [
        row[index[completion]] if completion in index else 0.0
        for row, completion in zip(probabilities, completions, strict=True)
    ]
    right = [a == b for a, b in zip(baseline.predict(prompts), completions, strict=True)]
    return {
        "rows": len(prompts),
        "exact_match": float(np.mean(right)),
        "log_loss": float(-np.mean(np.log(np.maximum(actual, _SMALLEST_PROBABILITY)))),
    }
