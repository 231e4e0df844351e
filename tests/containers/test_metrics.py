"""The metrics, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from sf_sagemaker.containers.metrics import (
    METRICS,
    InvalidPredictions,
    UndefinedMetric,
    accuracy,
    auc,
    classification_bias,
    evaluate,
    log_loss,
    median_absolute_percentage_error,
    regression_bias,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_regression_by_hand() -> None:
    figures = evaluate("regression", array(100, 200, 400), array(110, 180, 380))
    assert figures == pytest.approx(
        {
            "median_absolute_percentage_error": 10,
            "mean_absolute_error": 50 / 3,
            "root_mean_squared_error": math.sqrt(300),
            "bias": math.log(380 / 400),
        }
    )


@given(st.floats(0.5, 2), st.integers(1, 30))
def test_bias_has_the_sign_of_the_error(factor: float, rows: int) -> None:
    actual = np.linspace(10, 90, rows)
    assert regression_bias(actual, actual * factor) == pytest.approx(math.log(factor), abs=1e-9)


def test_bias_of_a_target_that_may_be_negative() -> None:
    actual = array(-3, -1, 0, 1, 5)
    predicted = actual + array(1, 2, 3, 4, 5)
    # Residuals 1 … 5: their median is 3, and their median absolute deviation 1.
    assert regression_bias(actual, predicted) == 3
    assert regression_bias(actual, actual) == 0
    with pytest.raises(UndefinedMetric, match="same value"):
        regression_bias(actual, actual + 1)
    with pytest.raises(UndefinedMetric, match="3 actual values are not positive"):
        regression_bias(actual, predicted, positive=True)
    assert regression_bias(abs(actual) + 1, abs(actual) + 1, positive=False) == 0


def test_bias_bears_predictions_below_zero() -> None:
    assert regression_bias(array(1, 2, 3), array(-1, 2, 3)) == 0


def test_percentage_error_of_zeros() -> None:
    assert median_absolute_percentage_error(array(0, 10, 10), array(0, 11, 12)) == 10
    with pytest.raises(UndefinedMetric):
        median_absolute_percentage_error(array(0, 0, 10), array(1, 1, 12))
    assert "median_absolute_percentage_error" not in evaluate(
        "regression", array(0, 0), array(1, 2)
    )


def test_two_classes_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    actual = generator.integers(0, 2, 300)
    predicted = np.clip(actual * 0.3 + generator.random(300) * 0.7, 0.01, 0.99)
    figures = evaluate("classification", actual, predicted)
    assert figures == pytest.approx(
        {
            "auc": reference.roc_auc_score(actual, predicted),
            "log_loss": reference.log_loss(actual, predicted),
            "accuracy": reference.accuracy_score(actual, predicted > 0.5),
            "bias": predicted.mean() - actual.mean(),
        }
    )


def test_several_classes_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    actual = generator.integers(0, 3, 300)
    predicted = generator.dirichlet((1, 1, 1), 300) * 0.5 + np.eye(3)[actual] * 0.5
    figures = evaluate("classification", actual, predicted)
    assert figures["log_loss"] == pytest.approx(reference.log_loss(actual, predicted))
    assert figures["accuracy"] == pytest.approx(np.mean(predicted.argmax(axis=1) == actual))
    assert figures["auc"] == pytest.approx(
        reference.roc_auc_score(actual, predicted, multi_class="ovr", average="macro")
    )
    differences = predicted.mean(axis=0) - np.bincount(actual) / 300
    assert abs(figures["bias"]) == pytest.approx(np.abs(differences).max())


def test_certain_and_wrong_is_still_finite() -> None:
    assert math.isfinite(log_loss(array(1, 0), array(0, 1)))


def test_rows_of_one_class() -> None:
    with pytest.raises(UndefinedMetric, match="1 of 2 classes"):
        auc(array(1, 1), array(0.5, 0.6))
    assert set(evaluate("classification", array(1, 1), array(0.5, 0.6))) == {
        "log_loss",
        "accuracy",
        "bias",
    }
    assert classification_bias(array(1, 1), array(0.5, 0.7)) == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("actual", "predicted", "expected"),
    [
        (array(), array(), "at least one row"),
        (array(1, 2), array(1), "same length"),
        (array(1, math.nan), array(1, 2), "1 of 2 actual values"),
        (array(1, 2), array(1, math.inf), "1 of 2 predictions"),
    ],
)
def test_what_cannot_be_compared(actual: np.ndarray, predicted: np.ndarray, expected: str) -> None:
    with pytest.raises(InvalidPredictions, match=expected):
        evaluate("regression", actual, predicted)


@pytest.mark.parametrize(
    ("actual", "predicted", "expected"),
    [
        (array(0, 2), array(0.5, 0.5), "from 0 to 1"),
        (array(0, 0.5), array(0.5, 0.5), "from 0 to 1"),
        (array(0, 1), array(0.5, 1.5), "between 0 and 1"),
        (array(), array(), "at least one row"),
    ],
)
def test_what_are_no_classes(actual: np.ndarray, predicted: np.ndarray, expected: str) -> None:
    with pytest.raises(InvalidPredictions, match=expected):
        accuracy(actual, predicted)


def test_less_loss_is_better() -> None:
    assert METRICS["mean_absolute_error"].loss(2) < METRICS["mean_absolute_error"].loss(3)
    assert METRICS["auc"].loss(0.9) < METRICS["auc"].loss(0.8)
    assert METRICS["bias"].loss(-0.01) < METRICS["bias"].loss(0.02)
    assert METRICS["bias"].tasks == ("regression", "classification")
    assert METRICS["auc"].tasks == ("classification",)
