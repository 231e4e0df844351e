"""What the baseline answers: the median or the class rates of the train split, by group."""

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sf_sagemaker.lifecycle.baseline import fit_baseline

SALES = pa.table(
    {
        "zip_code": ["98001", "98001", "98001", "98002", "98002", None],
        "price": [100.0, 200.0, 900.0, 400.0, 500.0, 1000.0],
    }
)
STRIKES = pa.table(
    {
        "phase": ["climb", "climb", "climb", "climb", "approach", None],
        "effect": ["none", "none", "none", "landing", "abort", "abort"],
    }
)


def asked(**columns: Any) -> pa.Table:
    return pa.table(columns)


def test_without_groups_every_row_gets_the_median_of_all():
    baseline = fit_baseline(SALES, "price", by=None, classes=None)
    answers = baseline.predict(asked(anything=[1, 2, 3]))
    assert answers.shape == (3,)
    assert answers.tolist() == [450.0, 450.0, 450.0]  # between 400 and 500


def test_each_group_gets_its_own_median():
    baseline = fit_baseline(SALES, "price", by="zip_code", classes=None)
    answers = baseline.predict(asked(zip_code=["98002", "98001", "98002"]))
    assert answers.shape == (3,)
    assert answers.tolist() == [450.0, 200.0, 450.0]


def test_an_unseen_group_and_a_missing_one_get_the_answer_to_all():
    sales = pa.concat_tables([SALES, pa.table({"zip_code": ["98002"], "price": [700.0]})])
    baseline = fit_baseline(sales, "price", by="zip_code", classes=None)
    answers = baseline.predict(asked(zip_code=["98999", None, "98002"]))
    # seven prices, that of the row without a zip code among them
    assert answers.tolist() == [500.0, 500.0, 500.0]
    fewer = fit_baseline(SALES, "price", by="zip_code", classes=None)
    assert fewer.predict(asked(zip_code=[None, "98001"])).tolist() == [450.0, 200.0]


@pytest.mark.parametrize(
    ("groups", "type_"),
    [
        ([1, 2, None], pa.int32()),
        ([98001.0, float("nan"), None], pa.float64()),
        ([True, False, None], pa.bool_()),
        (["a", "b", None], pa.string()),
        (["a", "b", None], pa.dictionary(pa.int32(), pa.string())),
        ([datetime.date(2014, 1, 1), datetime.date(2014, 1, 2), None], pa.date32()),
        ([datetime.datetime(2014, 1, 1), None, None], pa.timestamp("us")),
    ],
    ids=str,
)
def test_groups_of_every_type_are_found_again(groups: list[Any], type_: pa.DataType):
    column = pa.array(groups, type_)
    train = pa.table({"group": column, "target": [10.0, 20.0, 60.0]})
    baseline = fit_baseline(train, "target", by="group", classes=None)
    first, *_, missing = baseline.predict(train.select(["group"])).tolist()
    assert first == 10.0
    assert missing == 20.0  # the median of all


def test_a_group_of_large_whole_numbers_with_gaps_is_found_again():
    """64-bit keys keep all their digits although one of them is missing."""
    key = 2**60 + 1
    train = pa.table({"group": pa.array([key, 7, None]), "target": [10.0, 20.0, 60.0]})
    baseline = fit_baseline(train, "target", by="group", classes=None)
    assert baseline.predict(train).tolist() == [10.0, 20.0, 20.0]


def test_the_group_may_be_the_target_itself():
    baseline = fit_baseline(SALES, "price", by="price", classes=None)
    assert baseline.predict(asked(price=[900.0, 1.0])).tolist() == [900.0, 450.0]


def test_whole_numbers_have_a_median_too():
    train = pa.table({"target": pa.array([1, 2, 4, 8], pa.int64())})
    answers = fit_baseline(train, "target", by=None, classes=None).predict(train)
    assert answers.dtype == float
    assert answers.tolist() == [3.0] * 4


def test_two_classes_are_answered_with_the_share_of_the_second():
    train = pa.table({"churned": ["no", "no", "no", "yes"]})
    baseline = fit_baseline(train, "churned", by=None, classes=["no", "yes"])
    answers = baseline.predict(asked(anything=[1, 2]))
    assert answers.shape == (2,)
    assert answers.tolist() == [0.25, 0.25]
    reversed_ = fit_baseline(train, "churned", by=None, classes=["yes", "no"])
    assert reversed_.predict(asked(anything=[1])).tolist() == [0.75]


def test_more_classes_are_answered_with_the_share_of_each_in_their_order():
    baseline = fit_baseline(STRIKES, "effect", by=None, classes=["none", "landing", "abort"])
    answers = baseline.predict(asked(anything=[1, 2, 3, 4]))
    assert answers.shape == (4, 3)
    np.testing.assert_allclose(answers, np.tile([3 / 6, 1 / 6, 2 / 6], (4, 1)))


def test_a_class_that_a_group_does_not_have_has_the_share_zero_there():
    classes = ["abort", "landing", "none", "shutdown"]  # the last one in no row at all
    baseline = fit_baseline(STRIKES, "effect", by="phase", classes=classes)
    answers = baseline.predict(asked(phase=["climb", "approach", "taxi", None]))
    overall = [2 / 6, 1 / 6, 3 / 6, 0]
    np.testing.assert_allclose(answers, [[0, 0.25, 0.75, 0], [1, 0, 0, 0], overall, overall])
    np.testing.assert_allclose(answers.sum(1), 1)


def test_a_group_of_one_of_two_classes_is_certain():
    train = pa.table({"plan": ["a", "a", "b", "b"], "churned": ["no", "no", "yes", "yes"]})
    baseline = fit_baseline(train, "churned", by="plan", classes=["no", "yes"])
    assert baseline.predict(asked(plan=["a", "b", "c"])).tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("classes", "shape"), [(None, (0,)), (["none", "abort"], (0,)), (["none", "a", "b"], (0, 3))]
)
@pytest.mark.parametrize("by", [None, "group"])
def test_nothing_asked_is_nothing_answered(classes, shape, by):
    target = [1.0, 2.0] if classes is None else ["none", "none"]
    train = pa.table({"group": ["x", "y"], "target": target})
    baseline = fit_baseline(train, "target", by=by, classes=classes)
    assert baseline.predict(train.slice(0, 0)).shape == shape
