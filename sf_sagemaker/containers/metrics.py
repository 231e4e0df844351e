"""What a model's predictions are worth: the metrics of regression and classification.

The same functions score a model in its training container and in every later evaluation.

Regression compares actual and predicted values in the target's units, shapes (n,). Classification
compares class indices, shape (n,), with probabilities: shape (n,) for the second of two classes,
or (n, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.containers.errors import ContainerError

if TYPE_CHECKING:
    import numpy as np

Task = Literal["regression", "classification"]


class InvalidPredictions(ContainerError):
    """Actual and predicted values that cannot be compared: none, too few, or not finite."""


class UndefinedMetric(ContainerError):
    """A metric that these rows don't define, such as an AUC of rows of one class."""


@dataclass(frozen=True)
class Metric:
    """A metric and how to read it. `better` says which of two values is the better one."""

    name: str
    better: Literal["lower", "higher", "nearer zero"]
    description: str
    functions: Mapping[Task, Callable[..., float]]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the metric belongs to."""
        return tuple(self.functions)

    def compute(
        self,
        task: Task,
        actual: np.ndarray,
        predicted: np.ndarray,
        *,
        positive: bool | None = None,
    ) -> float:
        """The metric of these rows; `positive` as for regression_bias, and of no matter to others.

        Raises InvalidPredictions, UndefinedMetric, and KeyError for a task it doesn't belong to.
        """
        function = self.functions[task]
        if function is regression_bias:
            return function(actual, predicted, positive=positive)
        return function(actual, predicted)

    def loss(self, value: float) -> float:
        """The value as something of which less is better."""
        return {"lower": value, "higher": -value, "nearer zero": abs(value)}[self.better]


def median_absolute_percentage_error(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Median of |predicted - actual| / |actual|, in percent.

    A row whose actual value is zero counts as 0 where it is predicted exactly, else as infinite.
    Raises UndefinedMetric where the median itself is infinite.
    """
    import numpy as np

    actual, predicted = _values(actual, predicted)
    error = np.abs(predicted - actual)
    size = np.abs(actual)
    relative = np.where(error == 0, 0.0, np.inf)
    np.divide(error, size, out=relative, where=size > 0)
    result = 100 * float(np.median(relative))
    if not np.isfinite(result):
        raise UndefinedMetric("percentage error is undefined: most actual values are zero")
    return result


def mean_absolute_error(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of |predicted - actual|, in the target's units."""
    import numpy as np

    actual, predicted = _values(actual, predicted)
    return float(np.mean(np.abs(predicted - actual)))


def root_mean_squared_error(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Root of the mean squared error, in the target's units."""
    import numpy as np

    actual, predicted = _values(actual, predicted)
    return float(np.sqrt(np.mean(np.square(predicted - actual))))


def regression_bias(
    actual: np.ndarray, predicted: np.ndarray, *, positive: bool | None = None
) -> float:
    """How far predictions lie off in one direction: above zero, they are too high.

    For a positive target the median of log(predicted / actual): -0.05 means predictions 5 % too
    low. Otherwise the median of predicted - actual over its median absolute deviation (MAD).
    `positive` None decides by these actual values; say it where figures of several sets of rows
    are compared. Raises UndefinedMetric for a positive target that isn't, and where residuals have
    no spread to measure by.
    """
    import numpy as np

    actual, predicted = _values(actual, predicted)
    if positive is None:
        positive = bool((actual > 0).all())
    if positive:
        if not (actual > 0).all():
            raise UndefinedMetric(
                f"log ratio is undefined: {int((actual <= 0).sum())} actual values are not positive"
            )
        # A prediction that isn't positive counts as far too low; the median bears some of them.
        tiny = np.finfo(float).tiny
        return float(np.median(np.log(np.maximum(predicted, tiny)) - np.log(actual)))
    residuals = predicted - actual
    median = float(np.median(residuals))
    spread = float(np.median(np.abs(residuals - median)))
    if median == 0:
        return 0.0
    if spread == 0:
        raise UndefinedMetric("bias is undefined: most residuals are the same value")
    return median / spread


def log_loss(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Mean negative log probability of the actual class, in nats."""
    import numpy as np

    classes, probabilities = _probabilities(actual, predicted)
    chosen = probabilities[np.arange(len(classes)), classes]
    return float(-np.mean(np.log(np.maximum(chosen, np.finfo(np.float32).eps))))


def accuracy(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Share of rows whose most probable class is the actual one."""
    import numpy as np

    classes, probabilities = _probabilities(actual, predicted)
    return float(np.mean(np.argmax(probabilities, axis=1) == classes))


def auc(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Area under the ROC curve; for more than two classes, the mean of each against the rest.

    Raises UndefinedMetric where the rows lack a class.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    classes, probabilities = _probabilities(actual, predicted)
    count = probabilities.shape[1]
    present = np.unique(classes)
    if len(present) < count:
        raise UndefinedMetric(f"AUC is undefined: {len(present)} of {count} classes occur")
    if count == 2:
        return float(roc_auc_score(classes, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(classes == k, probabilities[:, k]) for k in present]))


def classification_bias(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Mean predicted probability less the rate: above zero, predictions are too high.

    Of the second of two classes; of more than two, of the class where they differ most.
    """
    import numpy as np

    classes, probabilities = _probabilities(actual, predicted)
    count = probabilities.shape[1]
    rates = np.bincount(classes, minlength=count) / len(classes)
    difference = probabilities.mean(axis=0) - rates
    return float(difference[1] if count == 2 else difference[np.argmax(np.abs(difference))])


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "median_absolute_percentage_error",
            "lower",
            "Median of the absolute error relative to the actual value, in percent.",
            {"regression": median_absolute_percentage_error},
        ),
        Metric(
            "mean_absolute_error",
            "lower",
            "Mean absolute error, in the target's units.",
            {"regression": mean_absolute_error},
        ),
        Metric(
            "root_mean_squared_error",
            "lower",
            "Root of the mean squared error, in the target's units.",
            {"regression": root_mean_squared_error},
        ),
        Metric(
            "log_loss",
            "lower",
            "Mean negative log probability of the actual class, in nats.",
            {"classification": log_loss},
        ),
        Metric(
            "auc",
            "higher",
            "Area under the ROC curve; mean of each class against the rest where there are more.",
            {"classification": auc},
        ),
        Metric(
            "accuracy",
            "higher",
            "Share of rows whose most probable class is the actual one.",
            {"classification": accuracy},
        ),
        Metric(
            "bias",
            "nearer zero",
            "Median log ratio of prediction to a positive target, else median residual over its "
            "MAD; for classes the mean probability less the rate. Above zero: too high.",
            {"regression": regression_bias, "classification": classification_bias},
        ),
    )
}


def evaluate(
    task: Task, actual: np.ndarray, predicted: np.ndarray, *, positive: bool | None = None
) -> dict[str, float]:
    """All metrics of a task that these rows define, by name; `positive` as for regression_bias.

    Raises InvalidPredictions.
    """
    figures = {}
    for name, metric in METRICS.items():
        if task in metric.functions:
            with suppress(UndefinedMetric):
                figures[name] = metric.compute(task, actual, predicted, positive=positive)
    return figures


def _values(actual: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    actual, predicted = np.asarray(actual, dtype=float), np.asarray(predicted, dtype=float)
    if actual.ndim != 1 or actual.shape != predicted.shape:
        raise InvalidPredictions(
            f"actual values of shape {actual.shape} and predictions of shape {predicted.shape}: "
            "expected two of the same length"
        )
    _check("actual values", actual)
    _check("predictions", predicted)
    return actual, predicted


def _probabilities(actual: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class indices of shape (n,), and probabilities of shape (n, classes)."""
    import numpy as np

    actual, predicted = np.asarray(actual, dtype=float), np.asarray(predicted, dtype=float)
    if actual.ndim != 1 or predicted.ndim not in (1, 2) or len(actual) != len(predicted):
        raise InvalidPredictions(
            f"classes of shape {actual.shape} and probabilities of shape {predicted.shape}: "
            "expected (n,) and (n,) or (n, classes)"
        )
    _check("actual classes", actual)
    _check("probabilities", predicted)
    if predicted.ndim == 1:
        predicted = np.stack([1 - predicted, predicted], axis=1)
    count = predicted.shape[1]
    if ((actual < 0) | (actual >= count) | (actual != np.floor(actual))).any():
        raise InvalidPredictions(f"actual classes must be indices from 0 to {count - 1}")
    if ((predicted < 0) | (predicted > 1)).any():
        raise InvalidPredictions("probabilities must lie between 0 and 1")
    return actual.astype(int), predicted


def _check(what: str, values: np.ndarray) -> None:
    import numpy as np

    if values.size == 0:
        raise InvalidPredictions(f"no {what}: a metric needs at least one row")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InvalidPredictions(f"{bad} of {values.size} {what} are missing or infinite")
