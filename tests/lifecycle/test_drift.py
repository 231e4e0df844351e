"""Drift of inputs: found where there is any, at any number of rows, and not cried over noise."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from sf_sagemaker.lifecycle.drift import InputDrift, UnknownFeature, measure_drift

ZIP_CODES = 70  # as many as King County has


def houses(seed: int, rows: int, *, shift: float = 0.0) -> pa.Table:
    """Features of many kinds: `shift` is that of `size`, in standard deviations."""
    random = np.random.default_rng(seed)
    renovated = random.integers(1950, 2015, rows).astype(float)
    renovated[random.random(rows) < 0.8] = np.nan
    return pa.table(
        {
            "size": random.normal(shift, 1, rows),
            "area": np.exp(random.normal(0, 1, rows)),
            "bedrooms": random.integers(1, 6, rows),
            "is_waterfront": random.random(rows) < 0.01,
            "renovated": pa.array(renovated, from_pandas=True),
            "zip_code": random.integers(98000, 98000 + ZIP_CODES, rows).astype(str),
            "condition": random.choice(["poor", "fair", "good"], rows, p=[0.1, 0.3, 0.6]),
            "remark": random.choice(["", "as new", "needs some work"], rows),
        }
    )


FEATURES = [
    ("size", "numeric"),
    ("area", "numeric"),
    ("bedrooms", "numeric"),
    ("is_waterfront", "numeric"),
    ("renovated", "numeric"),
    ("zip_code", "categorical"),
    ("condition", "categorical"),
    ("remark", "text"),
]


def drift(training: pa.Table, recent: pa.Table, **options) -> InputDrift:
    return measure_drift(training, recent, FEATURES, **options)


def effect_of(measured: InputDrift, feature: str) -> float:
    return next(of.effect for of in measured.features if of.feature == feature)


def with_column(table: pa.Table, name: str, values) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 400])
def test_rows_of_the_same_kind_are_steady_however_few(rows):
    training = houses(0, 3000)
    alarms = [drift(training, houses(seed, rows), seed=seed).drifted for seed in range(1, 31)]
    assert sum(map(bool, alarms)) <= 1, alarms


def test_a_difference_that_does_not_matter_is_steady_however_many_rows_there_are():
    training, recent = houses(0, 100_000), houses(1, 100_000, shift=0.05)
    assert ks_2samp(training["size"], recent["size"]).pvalue < 1e-6  # type: ignore[attr-defined]
    measured = drift(training, recent)
    assert measured.state == "steady"
    assert measured.reason == "no feature of 8 has moved by 0.1 or more"
    assert effect_of(measured, "size") < 0.05
    assert (measured.training_rows, measured.recent_rows) == (100_000, 100_000)


@pytest.mark.parametrize("rows", [200, 1000, 30_000])
def test_a_shift_is_found_and_its_effect_does_not_depend_on_the_rows(rows):
    measured = drift(houses(0, 3000), houses(1, rows, shift=0.7))
    assert measured.state == "drifted"
    assert measured.drifted == ("size",)
    first = measured.features[0]
    assert first.feature == "size"
    assert first.effect == pytest.approx(0.274, abs=0.06)  # 2 * Phi(0.35) - 1
    assert first.effect > first.noise
    assert "size (0.2" in measured.reason


def test_few_rows_want_a_greater_shift():
    training, recent = houses(0, 3000), houses(3, 50, shift=0.3)
    assert drift(training, recent).state == "steady"
    assert drift(training, houses(3, 50, shift=1.5)).drifted == ("size",)


def test_values_that_go_missing_are_drift():
    recent = houses(1, 1000)
    sizes = recent["size"].to_pylist()
    lost = with_column(recent, "size", [None if n % 4 == 0 else v for n, v in enumerate(sizes)])
    measured = drift(houses(0, 3000), lost)
    assert measured.drifted == ("size",)
    first = measured.features[0]
    assert (first.missing_before, first.missing_now) == (0, 0.25)
    assert first.effect == pytest.approx(0.25, abs=0.04)


def test_a_feature_that_is_missing_altogether_is_drift():
    measured = drift(
        houses(0, 3000), with_column(houses(1, 1000), "size", np.full(1000, float("nan")))
    )
    assert measured.drifted == ("size",)
    assert measured.features[0].missing_now == 1
    assert measured.features[0].now == "all missing"
    assert measured.features[0].effect > 0.9


def test_categories_that_training_did_not_have_are_drift():
    recent = houses(1, 1000)
    values = ["ruin" if n % 5 == 0 else v for n, v in enumerate(recent["condition"].to_pylist())]
    measured = drift(houses(0, 3000), with_column(recent, "condition", values))
    assert measured.drifted == ("condition",)
    first = measured.features[0]
    assert first.unseen == 0.2
    assert first.effect == pytest.approx(0.2, abs=0.04)
    assert (first.before, first.now) == ("ruin: 0.0%", "ruin: 20.0%")


def test_many_categories_are_drift_only_where_they_have_moved():
    recent = houses(1, 400)
    assert effect_of(drift(houses(0, 3000), recent), "zip_code") < 0.05
    halved = [f"{98000 + int(code) % 35}" for code in recent["zip_code"].to_pylist()]
    measured = drift(houses(0, 3000), with_column(recent, "zip_code", halved))
    assert measured.drifted == ("zip_code",)
    assert measured.features[0].effect > 0.3


def test_free_text_is_compared_by_its_length():
    recent = houses(1, 400)
    longer = [text + " and so on" for text in recent["remark"].to_pylist()]
    measured = drift(houses(0, 3000), with_column(recent, "remark", longer))
    assert measured.drifted == ("remark",)
    assert measured.features[0].before == "median 6"


def test_what_moves_by_design_can_be_ignored():
    training, recent = houses(0, 3000), houses(1, 1000, shift=1)
    measured = drift(training, recent, ignored=["size"])
    assert measured.state == "steady"
    assert measured.ignored == ("size",)
    assert "size" not in [feature.feature for feature in measured.features]
    everything = drift(training, recent, ignored=[name for name, _ in FEATURES])
    assert (everything.state, everything.reason) == ("no verdict", "every feature is ignored")


@pytest.mark.parametrize("rows", [0, 49])
def test_too_few_rows_give_no_verdict(rows):
    measured = drift(houses(0, 3000), houses(1, 1000, shift=3).slice(0, rows))
    assert measured.state == "no verdict"
    assert f"3,000 training and {rows} recent ones, of at least 50" in measured.reason
    assert measured.features == ()


def test_names_are_checked():
    rows = houses(0, 100)
    with pytest.raises(UnknownFeature, match="the recent rows have no area"):
        drift(rows, rows.drop_columns(["area"]))
    with pytest.raises(UnknownFeature, match="month can't be ignored"):
        drift(rows, rows, ignored=["month"])


def test_a_feature_of_one_value_is_steady():
    rows = pa.table({"n": np.ones(100), "c": ["a"] * 100, "m": pa.nulls(100, pa.float64())})
    features = [("n", "numeric"), ("c", "categorical"), ("m", "numeric")]
    measured = measure_drift(rows, rows, features)
    assert measured.state == "steady"
    assert [of.effect for of in measured.features] == [0, 0, 0]


NUMBERS = pa.array(np.arange(200.0))
WORDS = pa.array(["low", "high"] * 100)
DATES = pa.array([1] * 200, pa.date32())


@pytest.mark.parametrize(
    ("kind", "before", "now", "types"),
    [
        ("numeric", NUMBERS, WORDS, "double to string"),
        ("numeric", NUMBERS, pa.array(["1.5"] * 200), "double to string"),
        ("numeric", NUMBERS, DATES, "double to date32[day]"),
        ("text", WORDS, NUMBERS, "string to double"),
        ("categorical", WORDS, pa.array([[1]] * 200), "string to list<item: int64>"),
    ],
)
def test_a_feature_of_another_type_has_drifted_and_the_types_are_told(kind, before, now, types):
    steady = pa.array(np.tile(np.arange(20.0), 10))
    training, recent = (pa.table({"steady": steady, "changed": of}) for of in (before, now))
    measured = measure_drift(training, recent, [("steady", "numeric"), ("changed", kind)])
    assert measured.drifted == ("changed",)
    assert measured.reason == (
        f"1 of 2 features have moved by 0.1 or more: changed (its type changed from {types})"
    )
    first = measured.features[0]
    assert (first.feature, first.effect, first.noise) == ("changed", 1, 0)
    assert [first.before, first.now] == [f"type {of}" for of in types.split(" to ")]
    alone = measure_drift(training, recent, [("changed", kind)])
    assert alone.drifted == ("changed",)
    ignored = measure_drift(
        training, recent, [("steady", "numeric"), ("changed", kind)], ignored=["changed"]
    )
    assert ignored.state == "steady"


def test_other_types_of_the_same_kind_are_compared():
    numbers = pa.array(np.tile([0, 1], 100))
    booleans, texts = numbers.cast(pa.bool_()), numbers.cast(pa.string())
    for kind, before, now in (
        ("numeric", numbers, booleans),
        ("numeric", numbers, numbers.cast(pa.decimal128(30, 2))),
        ("numeric", booleans, numbers),
        ("categorical", texts, numbers),
        ("text", texts, texts.cast(pa.large_string())),
    ):
        measured = measure_drift(pa.table({"x": before}), pa.table({"x": now}), [("x", kind)])
        assert measured.state == "steady", (kind, before.type, now.type)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 1000),
    shift=st.floats(0, 3),
    decimals=st.sampled_from([0, 1, 6]),
    missing=st.floats(0, 0.9),
)
def test_the_distance_is_that_of_kolmogorov_and_smirnov_in_any_unit(seed, shift, decimals, missing):
    random = np.random.default_rng(seed)
    before, now = random.normal(size=400), random.normal(shift, 1, 300)
    before, now = before.round(decimals), now.round(decimals)
    for values in (before, now):
        values[random.random(len(values)) < missing] = -1000  # as far down as a missing value

    def measured(scale) -> InputDrift:
        return measure_drift(
            pa.table({"x": scale(before)}), pa.table({"x": scale(now)}), [("x", "numeric")]
        )

    linear, exponential = measured(lambda x: x), measured(np.exp)
    lost = measured(lambda x: np.where(x == -1000, np.nan, x))
    assert linear.features[0].effect == exponential.features[0].effect == lost.features[0].effect
    statistic = ks_2samp(before, now).statistic  # type: ignore[attr-defined]
    assert 0 <= linear.features[0].effect <= statistic
    assert linear.features[0].effect == pytest.approx(statistic, abs=0.09)  # what chance moves
