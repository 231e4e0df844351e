"""The scores of a model and of the baseline, on the same rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.lifecycle.baseline import Baseline, fit_baseline
from sf_sagemaker.lifecycle.scores import score


@dataclass(frozen=True)
class ColumnModel:
    """Predicts what one column says, or three of them: rows and predictions stay together."""

    columns: Sequence[str]

    def predict(self, table: pa.Table) -> np.ndarray:
        values = np.stack([table[name].to_numpy() for name in self.columns], axis=1)
        return values[:, 0] if len(self.columns) == 1 else values


def constant(value: float | Sequence[float]) -> Baseline:
    return Baseline(by=None, answers={}, overall=np.atleast_1d(np.asarray(value, dtype=float)))


def regression(actual: list[float], predicted: list[float]) -> pa.Table:
    return pa.table({"price": actual, "guess": predicted})


def test_a_regression_is_scored_in_the_units_of_its_target():
    rows = regression([100.0, 200.0, 400.0], [110.0, 190.0, 300.0])
    scores = score(ColumnModel(["guess"]), constant(200), rows, "price", classes=None)
    assert (scores.rows, scores.unscored) == (3, 0)
    assert scores.model["mean_absolute_error"] == pytest.approx(40)
    assert scores.model["root_mean_squared_error"] == pytest.approx(math.sqrt(10_200 / 3))
    assert scores.model["median_absolute_percentage_error"] == pytest.approx(10)
    assert scores.baseline["mean_absolute_error"] == pytest.approx(100)
    assert scores.baseline["median_absolute_percentage_error"] == pytest.approx(50)
    assert scores.model.keys() == scores.baseline.keys()


def test_the_baseline_answers_for_the_rows_that_the_model_is_scored_on():
    train = pa.table({"zip": ["a", "a", "b"], "price": [1.0, 3.0, 10.0]})
    rows = pa.table({"zip": ["b", "a", "c"], "price": [10.0, 2.0, 3.0], "guess": [10.0, 3.0, 4.0]})
    baseline = fit_baseline(train, "price", by="zip", classes=None)
    scores = score(ColumnModel(["guess"]), baseline, rows, "price", classes=None)
    assert scores.baseline["mean_absolute_error"] == 0  # 10, 2 and, for the unknown zip, 3
    assert scores.model["mean_absolute_error"] == pytest.approx(2 / 3)


def test_the_bias_of_a_positive_target_is_a_log_ratio():
    rows = regression([100.0, 200.0, 400.0], [110.0, 220.0, 440.0])
    model = ColumnModel(["guess"])
    positive = score(model, constant(100), rows, "price", classes=None, positive=True)
    assert positive.model["bias"] == pytest.approx(math.log(1.1))
    assert positive.baseline["bias"] == pytest.approx(math.log(0.5))
    other = score(model, constant(100), rows, "price", classes=None, positive=False)
    assert other.model["bias"] == pytest.approx(2)  # residuals 10, 20, 40: median 20, MAD 10
    assert other.baseline["bias"] == pytest.approx(-1)  # 0, -100, -300: median -100, MAD 100


def test_what_was_said_of_the_target_counts_and_not_what_these_rows_have():
    rows = regression([0.0, 200.0, 400.0], [110.0, 220.0, 440.0])
    model, baseline = ColumnModel(["guess"]), constant(100)
    assert "bias" in score(model, baseline, rows, "price", classes=None).model
    figures = score(model, baseline, rows, "price", classes=None, positive=True).model
    assert "bias" not in figures  # undefined: a target said to be positive is zero
    assert "mean_absolute_error" in figures


def test_two_classes_are_scored_with_the_probability_of_the_second():
    rows = pa.table({"churned": ["no", "yes", "no", "yes"], "p": [0.1, 0.8, 0.6, 0.9]})
    scores = score(ColumnModel(["p"]), constant([0.5, 0.5]), rows, "churned", classes=["no", "yes"])
    assert (scores.rows, scores.unscored) == (4, 0)
    assert scores.model["accuracy"] == 0.75
    assert scores.model["auc"] == 1
    assert scores.model["log_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.9]).mean())
    assert scores.model["bias"] == pytest.approx(0.6 - 0.5)
    assert scores.baseline["log_loss"] == pytest.approx(math.log(2))
    assert scores.baseline["auc"] == 0.5


def test_the_order_of_the_classes_says_which_one_is_predicted():
    rows = pa.table({"churned": ["no", "yes", "no", "yes"], "p": [0.1, 0.8, 0.6, 0.9]})
    scores = score(ColumnModel(["p"]), constant([0.5, 0.5]), rows, "churned", classes=["yes", "no"])
    assert scores.model["accuracy"] == 0.25
    assert scores.model["auc"] == 0


STRIKES = pa.table(
    {
        "effect": ["none", "abort", "landing", "none"],
        "p_none": [0.8, 0.1, 0.2, 0.3],
        "p_abort": [0.1, 0.7, 0.2, 0.3],
        "p_landing": [0.1, 0.2, 0.6, 0.4],
    }
)
EFFECTS = ["none", "abort", "landing"]
PROBABILITIES = ColumnModel(["p_none", "p_abort", "p_landing"])


def test_more_classes_are_scored_with_the_probability_of_each():
    scores = score(PROBABILITIES, constant([0.5, 0.25, 0.25]), STRIKES, "effect", classes=EFFECTS)
    assert scores.rows == 4
    assert scores.model["accuracy"] == 0.75
    assert scores.model["log_loss"] == pytest.approx(-np.log([0.8, 0.7, 0.6, 0.3]).mean())
    assert 0.5 < scores.model["auc"] <= 1
    assert scores.baseline["accuracy"] == 0.5
    assert scores.baseline["auc"] == 0.5
    assert scores.baseline["log_loss"] == pytest.approx(-np.log([0.5, 0.25, 0.25, 0.5]).mean())


def test_rows_of_classes_that_the_model_does_not_know_are_left_out_and_counted():
    unknown = pa.table(
        {
            "effect": ["shutdown", None],
            "p_none": [0.2, 0.3],
            "p_abort": [0.3, 0.3],
            "p_landing": [0.5, 0.4],
        }
    )
    rows = pa.concat_tables([unknown.slice(0, 1), STRIKES, unknown.slice(1, 1)])
    baseline = constant([0.5, 0.25, 0.25])
    scores = score(PROBABILITIES, baseline, rows, "effect", classes=EFFECTS)
    known = score(PROBABILITIES, baseline, STRIKES, "effect", classes=EFFECTS)
    assert (scores.rows, scores.unscored) == (4, 2)
    assert scores.model == known.model
    assert scores.baseline == known.baseline


def test_a_metric_that_the_rows_do_not_define_is_missing():
    of_one_class = STRIKES.filter(np.array([True, False, False, True]))
    scores = score(PROBABILITIES, constant([1, 0, 0]), of_one_class, "effect", classes=EFFECTS)
    assert "auc" not in scores.model
    assert "auc" not in scores.baseline
    assert scores.baseline["accuracy"] == 1


@pytest.mark.parametrize("effects", [["shutdown", "shutdown"], []])
def test_without_a_row_of_a_known_class_there_are_no_metrics(effects):
    empty = [0.1] * len(effects)
    rows = pa.table({"effect": pa.array(effects, pa.string()), "p": pa.array(empty, pa.float64())})
    scores = score(ColumnModel(["p"]), constant([0.5, 0.5]), rows, "effect", classes=["none", "x"])
    assert (scores.rows, scores.unscored) == (0, len(effects))
    assert dict(scores.model) == dict(scores.baseline) == {}


def test_a_regression_without_rows_has_no_metrics():
    rows = regression([1.0], [1.0]).slice(0, 0)
    scores = score(ColumnModel(["guess"]), constant(1), rows, "price", classes=None)
    assert (scores.rows, scores.unscored) == (0, 0)
    assert dict(scores.model) == dict(scores.baseline) == {}


@given(
    labels=st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=30),
    classes=st.permutations(["a", "b", "c"]),
)
def test_scored_and_unscored_rows_are_all_rows(labels, classes):
    rows = pa.table(
        {"label": pa.array(labels, pa.string()), "number": pa.array(range(len(labels)), pa.int64())}
    )

    class Certain:
        """Gives each row its own class, so that every row that is scored is right."""

        def predict(self, table: pa.Table) -> np.ndarray:
            numbers = [classes.index(labels[i]) for i in table["number"].to_pylist()]
            return np.eye(3)[numbers]

    scores = score(Certain(), constant([1 / 3] * 3), rows, "label", classes=classes)
    known = sum(label in classes for label in labels)
    assert (scores.rows, scores.unscored) == (known, len(labels) - known)
    if known:
        assert scores.model["accuracy"] == 1
