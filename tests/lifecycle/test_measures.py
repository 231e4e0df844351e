"""Measures say of many samples at once what the metrics say of each."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_sagemaker.containers.metrics import METRICS, Task, UndefinedMetric
from sf_sagemaker.lifecycle.intervals import bootstrap
from sf_sagemaker.lifecycle.measures import NumericMeasure, TextMeasure, UnknownMetric
from sf_sagemaker.lifecycle.outcomes import UNKNOWN_CLASS, Outcomes

REGRESSION = ("median_absolute_percentage_error", "mean_absolute_error", "root_mean_squared_error")
CLASSIFICATION = ("log_loss", "auc", "accuracy")


def outcomes(actual: np.ndarray, predicted: np.ndarray) -> Outcomes:
    rows = np.array([f"row-{number}" for number in range(len(actual))])
    splits = np.full(len(actual), "train")
    return Outcomes(rows, splits, np.asarray(actual, float), np.asarray(predicted, float))


def expected(
    task: Task, metric: str, its: Outcomes, sample: np.ndarray, *, positive: bool = False
) -> float:
    """The metric of one sample, as the containers compute it; NaN where it is undefined."""
    known = METRICS[metric]
    try:
        value = known.compute(task, its.actual[sample], its.predicted[sample], positive=positive)
    except UndefinedMetric:
        return math.nan
    return 1 - value if known.better == "higher" else value


def samples_of(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.vstack([np.arange(size), rng.integers(0, size, (20, size))])


@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_regression_is_measured_as_each_sample_would_be(seed: int, size: int, positive: bool):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that zeros, exact predictions and equal residuals occur.
    actual = rng.integers(1 if positive else -3, 6, size)
    its = outcomes(actual, rng.integers(-3, 6, size))
    samples = samples_of(rng, size)
    for metric in REGRESSION:
        measure = NumericMeasure("regression", metric, positive)
        wanted = [expected("regression", metric, its, sample) for sample in samples]
        np.testing.assert_allclose(measure.errors(its, samples), wanted, rtol=1e-12)
        wanted = [
            expected("regression", "bias", its, sample, positive=positive) for sample in samples
        ]
        np.testing.assert_allclose(measure.biases(its, its, samples), wanted, rtol=1e-12)


# scikit-learn is imported in the first example, and computes an AUC for each sample.
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 4))
def test_classes_are_measured_as_each_sample_would_be(seed: int, size: int, classes: int):
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 4, (size, classes))  # few different ones, so that ties occur
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    predicted = probabilities[:, 1] if classes == 2 else probabilities
    its = outcomes(rng.integers(0, classes, size), predicted)
    samples = samples_of(rng, size)
    for metric in CLASSIFICATION:
        measure = NumericMeasure("classification", metric)
        wanted = [expected("classification", metric, its, sample) for sample in samples]
        np.testing.assert_allclose(measure.errors(its, samples), wanted, rtol=1e-9, atol=1e-12)
    biases = NumericMeasure("classification", "log_loss").biases(its, its, samples)
    wanted = [expected("classification", "bias", its, sample) for sample in samples]
    compared = samples if classes == 2 else samples[:1]
    np.testing.assert_allclose(biases[: len(compared)], wanted[: len(compared)], atol=1e-12)


def test_the_bias_of_many_classes_can_be_found_to_be_none():
    """The greatest of several differences is never zero; that of one class is."""
    rng = np.random.default_rng(1)
    actual = rng.integers(0, 5, 400)
    its = outcomes(actual, np.full((400, 5), 0.2))
    measure = NumericMeasure("classification", "log_loss")
    interval = bootstrap(lambda samples: measure.biases(its, its, samples), 400, seed=1)
    assert interval.low < interval.estimate < interval.high
    assert (
        interval.high - interval.low > 0.04
    )  # on both sides of the estimate, some 2 · 1.96 · 0.02


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_a_class_that_the_predictor_does_not_know_counts_against_it(seed: int, classes: int):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), 60)
    actual = rng.integers(0, classes, 60)
    unknown = np.arange(60) < 6
    predicted = probabilities[:, 1] if classes == 2 else probabilities
    its = outcomes(np.where(unknown, UNKNOWN_CLASS, actual), predicted)
    known = np.flatnonzero(~unknown)
    everything = np.arange(60)[None, :]
    least = -math.log(np.finfo(np.float32).eps)
    for metric, each in (("accuracy", 1), ("log_loss", least)):
        measure = NumericMeasure("classification", metric)
        of_known = measure.errors(its, known[None, :])[0]
        assert measure.errors(its, everything)[0] == pytest.approx((54 * of_known + 6 * each) / 60)
    bias = NumericMeasure("classification", "log_loss").biases(its, its, everything)[0]
    excess = probabilities.mean(axis=0) - np.bincount(actual[~unknown], minlength=classes) / 60
    assert bias == pytest.approx(excess[1] if classes == 2 else excess[np.abs(excess).argmax()])


def test_for_auc_a_row_of_an_unknown_class_is_to_be_ranked_below_the_others():
    measure = NumericMeasure("classification", "auc")
    actual = np.array([1, 1, 0, UNKNOWN_CLASS])
    samples = np.arange(4)[None, :]
    low, high = (
        measure.errors(outcomes(actual, np.array([0.8, 0.7, 0.2, of_unknown])), samples)[0]
        for of_unknown in (0.1, 0.9)
    )
    assert (low, high) == (0, 0.5)


def test_better_predictions_have_less_error_by_every_metric():
    rng = np.random.default_rng(1)
    actual = rng.uniform(1, 9, 200)
    everything = np.arange(200)[None, :]
    near, far = (outcomes(actual, actual * np.exp(rng.normal(0, s, 200))) for s in (0.1, 0.5))
    for metric in REGRESSION:
        measure = NumericMeasure("regression", metric)
        assert 0 < measure.errors(near, everything)[0] < measure.errors(far, everything)[0]
    classes = rng.integers(0, 2, 200)
    sure, unsure = (
        outcomes(classes, np.clip(0.5 + share * (classes - 0.5) + rng.normal(0, 0.2, 200), 0, 1))
        for share in (0.8, 0.2)
    )
    for metric in CLASSIFICATION:
        measure = NumericMeasure("classification", metric)
        assert 0 < measure.errors(sure, everything)[0] < measure.errors(unsure, everything)[0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_prediction_that_is_no_number_leaves_nothing_defined(wrong: float):
    its = outcomes(np.array([1.0, 2.0, 3.0]), np.array([1.0, wrong, 3.0]))
    samples = np.array([[0, 1, 2], [0, 0, 2]])
    for metric in REGRESSION:
        measure = NumericMeasure("regression", metric, positive=True)
        assert np.isnan(measure.errors(its, samples)).all()
        assert np.isnan(measure.biases(its, its, samples)).all()
    text = outcomes(np.zeros(2), np.array([[1, 0.5], [0, wrong]]))
    measure = TextMeasure("completion_loss")
    assert np.isnan(measure.errors(text, samples[:, :2] % 2)).all()
    assert np.isnan(measure.biases(text, text, samples[:, :2] % 2)).all()


def test_a_positive_target_that_is_not_has_no_bias_but_an_error():
    its = outcomes(np.array([0.0, 2.0]), np.array([1.0, 2.0]))
    samples = np.array([[0, 1]])
    measure = NumericMeasure("regression", "mean_absolute_error", positive=True)
    assert np.isnan(measure.biases(its, its, samples)).all()
    assert measure.errors(its, samples)[0] == 0.5


def test_text_is_measured_by_matches_and_by_loss():
    its = outcomes(np.zeros(4), np.array([[1, 0.1], [0, 2.0], [1, 0.3], [1, 0.4]]))
    reference = outcomes(np.zeros(4), np.array([[0, 0.2], [0, 1.0], [0, 0.2], [0, 0.2]]))
    samples = np.array([[0, 1, 2, 3], [0, 0, 2, 3]])
    assert TextMeasure("exact_match").errors(its, samples).tolist() == [0.25, 0]
    losses = TextMeasure("completion_loss").errors(its, samples)
    np.testing.assert_allclose(losses, [0.7, 0.225])
    perplexities = TextMeasure("completion_perplexity").errors(its, samples)
    np.testing.assert_allclose(perplexities, np.exp([0.7, 0.225]))
    for metric in ("exact_match", "completion_loss", "completion_perplexity"):
        biases = TextMeasure(metric).biases(its, reference, samples)
        np.testing.assert_allclose(biases, [0.3, 0.025])


def test_a_metric_of_another_task_is_refused():
    with pytest.raises(UnknownMetric, match="mean_absolute_error"):
        NumericMeasure("regression", "auc")
    with pytest.raises(UnknownMetric, match="bias"):
        NumericMeasure("classification", "bias")
    with pytest.raises(UnknownMetric, match="exact_match"):
        TextMeasure("bleu")  # pyright: ignore[reportArgumentType]
