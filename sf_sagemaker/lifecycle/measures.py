"""How outcomes are judged, for many samples of their rows at once: error and bias.

The same metrics as `containers.metrics`, which scores one set of rows. An outcome with a value that
isn't finite makes every figure NaN: such rows are a defect to look at, not rows to leave out.

A row whose class the predictor doesn't know counts against it: it is wrong by accuracy, has the least
probability that log loss knows, and is for AUC a row of none of the known classes, to be ranked below
those of each.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.containers.metrics import METRICS, Task
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.outcomes import UNKNOWN_CLASS, Outcomes

if TYPE_CHECKING:
    import numpy as np

TextMetric = Literal["exact_match", "completion_loss", "completion_perplexity"]
TEXT_METRICS: tuple[TextMetric, ...] = ("exact_match", "completion_loss", "completion_perplexity")


class UnknownMetric(SfSagemakerError):
    """A metric by which such outcomes can't be judged."""


@dataclass(frozen=True)
class NumericMeasure:
    """Judges predicted numbers, or the probabilities of classes.

    `positive` says that the target is positive by definition, which decides how bias is measured.
    Raises UnknownMetric for a metric that the task doesn't have, or that has no better and worse.
    """

    task: Task
    metric: str
    positive: bool = False

    def __post_init__(self) -> None:
        allowed = [
            metric.name
            for metric in METRICS.values()
            if self.task in metric.tasks and metric.better != "nearer zero"
        ]
        if self.metric not in allowed:
            raise UnknownMetric(
                f"{self.metric!r} is no metric of {self.task}: choose one of {', '.join(allowed)}"
            )

    @property
    def of_classes(self) -> bool:
        return self.task == "classification"

    def errors(self, outcomes: Outcomes, samples: "np.ndarray") -> "np.ndarray":
        import numpy as np

        actual, predicted = outcomes.actual, outcomes.predicted
        if not _usable(outcomes, samples):
            return _undefined(samples)
        if self.task == "classification":
            return _classification_errors(self.metric, actual, _by_class(predicted), samples)
        difference = np.abs(predicted - actual)
        if self.metric == "mean_absolute_error":
            return difference[samples].mean(axis=1)
        if self.metric == "root_mean_squared_error":
            return np.sqrt(np.square(difference)[samples].mean(axis=1))
        relative = np.where(difference == 0, 0.0, np.inf)
        size = np.abs(actual)
        np.divide(difference, size, out=relative, where=size > 0)
        medians = 100 * np.median(relative[samples], axis=1)
        return np.where(np.isfinite(medians), medians, np.nan)

    def biases(
        self, outcomes: Outcomes, reference: Outcomes, samples: "np.ndarray"
    ) -> "np.ndarray":
        """As `containers.metrics` measures them.

        Of more than two classes it is the one where all the rows together differ most: that one in
        every sample, for the greatest of several differences is never zero.
        """
        import numpy as np

        actual, predicted = outcomes.actual, outcomes.predicted
        if not _usable(outcomes, samples):
            return _undefined(samples)
        if self.task == "classification":
            probabilities = _by_class(predicted)
            excess = probabilities - (actual[:, None] == np.arange(probabilities.shape[1]))
            chosen = 1 if excess.shape[1] == 2 else int(np.argmax(np.abs(excess.mean(axis=0))))
            return excess[samples, chosen].mean(axis=1)
        if self.positive:
            if (actual <= 0).any():
                return _undefined(samples)
            # A prediction that isn't positive counts as far too low; the median bears some of them.
            logarithm = np.log(np.maximum(predicted, np.finfo(float).tiny))
            return np.median((logarithm - np.log(actual))[samples], axis=1)
        residuals = (predicted - actual)[samples]
        medians = np.median(residuals, axis=1)
        spreads = np.median(np.abs(residuals - medians[:, None]), axis=1)
        biases = np.where(medians == 0, 0.0, np.nan)
        np.divide(medians, spreads, out=biases, where=spreads > 0)
        return biases


@dataclass(frozen=True)
class TextMeasure:
    """Judges completions. Bias is their mean loss in nats less that of the reference's."""

    metric: TextMetric

    def __post_init__(self) -> None:
        if self.metric not in TEXT_METRICS:
            raise UnknownMetric(
                f"{self.metric!r} is no metric of text: choose one of {', '.join(TEXT_METRICS)}"
            )

    @property
    def of_classes(self) -> bool:
        return False

    def errors(self, outcomes: Outcomes, samples: "np.ndarray") -> "np.ndarray":
        import numpy as np

        matched, losses = outcomes.predicted.T
        errors = 1 - matched if self.metric == "exact_match" else losses
        if not (samples.size and np.isfinite(errors).all()):
            return _undefined(samples)
        means = errors[samples].mean(axis=1)
        return np.exp(means) if self.metric == "completion_perplexity" else means

    def biases(
        self, outcomes: Outcomes, reference: Outcomes, samples: "np.ndarray"
    ) -> "np.ndarray":
        import numpy as np

        ours, theirs = outcomes.predicted[:, 1], reference.predicted[:, 1]
        if not (samples.size and np.isfinite(ours).all() and np.isfinite(theirs).all()):
            return _undefined(samples)
        return (ours - theirs)[samples].mean(axis=1)


def _usable(outcomes: Outcomes, samples: "np.ndarray") -> bool:
    import numpy as np

    finite = np.isfinite(outcomes.actual).all() and np.isfinite(outcomes.predicted).all()
    return bool(finite) and samples.size > 0


def _undefined(samples: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.full(len(samples), np.nan)


def _by_class(predicted: "np.ndarray") -> "np.ndarray":
    """Probabilities of shape (n, classes), also of two classes."""
    import numpy as np

    return np.stack([1 - predicted, predicted], axis=1) if predicted.ndim == 1 else predicted


def _classification_errors(
    metric: str, actual: "np.ndarray", probabilities: "np.ndarray", samples: "np.ndarray"
) -> "np.ndarray":
    import numpy as np

    classes = actual.astype(int)
    if metric == "accuracy":
        return (np.argmax(probabilities, axis=1) != classes)[samples].mean(axis=1)
    if metric == "log_loss":
        chosen = probabilities[np.arange(len(classes)), classes]
        chosen = np.where(classes == UNKNOWN_CLASS, 0, chosen)
        return -np.log(np.maximum(chosen, np.finfo(np.float32).eps))[samples].mean(axis=1)
    count = probabilities.shape[1]
    ranked = [1] if count == 2 else range(count)
    areas = [_areas(classes == k, probabilities[:, k], samples) for k in ranked]
    return 1 - np.mean(areas, axis=0)


def _areas(positive: "np.ndarray", score: "np.ndarray", samples: "np.ndarray") -> "np.ndarray":
    """The area under the ROC curve for each sample; NaN where it has rows of one kind only.

    The share of pairs of a positive and a negative row that the score puts in order; ties are half.
    """
    import numpy as np

    values, place = np.unique(score, return_inverse=True)
    count = len(values)
    cells = np.arange(len(samples))[:, None] * count + place[samples]

    def counts(rows: "np.ndarray") -> "np.ndarray":
        weights = rows[samples].astype(float)
        found = np.bincount(cells.ravel(), weights.ravel(), minlength=len(samples) * count)
        return found.reshape(len(samples), count)

    positives, negatives = counts(positive), counts(~positive)
    below = np.cumsum(negatives, axis=1) - negatives
    ordered = (positives * (below + negatives / 2)).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    areas = np.full(len(samples), np.nan)
    np.divide(ordered, pairs, out=areas, where=pairs > 0)
    return areas
