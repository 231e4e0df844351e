"""Whether a challenger takes over: the comparison, its verdict, the decision."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_sagemaker.lifecycle.comparison import Comparison, Verdict, compare, decide
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.lifecycle.measures import NumericMeasure
from sf_sagemaker.lifecycle.outcomes import Outcomes

MDAPE = NumericMeasure("regression", "median_absolute_percentage_error", positive=True)


def scored(noise: float, *, rows: int = 800, seed: int = 0, own: int = 1) -> Outcomes:
    """A predictor whose log error has a part in common with every other, and one of its own."""
    common = np.random.default_rng(seed)
    actual = np.exp(common.normal(13, 0.5, rows))
    errors = common.normal(0, 0.1, rows) + np.random.default_rng([seed, own]).normal(0, noise, rows)
    return Outcomes(
        np.array([f"row {n}" for n in range(rows)]),
        np.where(common.random(rows) < 0.2, "test", "train"),
        actual,
        actual * np.exp(errors),
    )


def compared(champion: Outcomes, challenger: Outcomes, margin: float = 0.02) -> Comparison:
    return compare(MDAPE, champion, challenger, margin=margin, min_rows=500, seed=3)


@pytest.mark.parametrize("seed", range(10))
def test_a_much_better_challenger_is_no_worse_and_a_much_worse_one_is_worse(seed: int) -> None:
    good, bad = scored(0.02, seed=seed), scored(0.15, seed=seed, own=2)
    assert compared(bad, good).verdict == "no worse"
    assert compared(good, bad).verdict == "worse"


def test_figures_are_the_metrics_of_the_paired_rows() -> None:
    champion, challenger = scored(0.05), scored(0.05, own=2)
    shuffled = challenger.take(np.random.default_rng(0).permutation(800)[:700])
    comparison = compared(champion, shuffled)
    rows = np.isin(champion.rows, shuffled.rows)
    expected = [
        100 * np.median(np.abs(one.predicted[rows] / one.actual[rows] - 1))
        for one in (champion, challenger)
    ]
    assert comparison.rows == 700
    assert [comparison.champion_error, comparison.challenger_error] == pytest.approx(expected)
    assert comparison.difference.estimate == pytest.approx(expected[1] / expected[0] - 1)


def test_twins_differ_by_nothing_and_a_model_like_the_other_is_undecided() -> None:
    champion = scored(0.08)
    twins = compared(champion, champion)
    assert twins.difference == Interval(0, 0, 0)
    assert twins.verdict == "no worse"
    assert compared(champion, champion, margin=0).verdict == "undecided"
    verdicts = [
        compared(scored(0.08, seed=seed), scored(0.08, seed=seed, own=2)).verdict
        for seed in range(20)
    ]
    assert "worse" not in verdicts
    assert verdicts.count("undecided") > 10


@settings(deadline=None, max_examples=25)
@given(st.floats(0.01, 0.3), st.floats(0.01, 0.3), st.floats(0, 0.2))
def test_the_verdict_is_where_the_interval_lies(one: float, other: float, margin: float) -> None:
    comparison = compared(scored(one), scored(other, own=2), margin)
    low, high = comparison.difference.low, comparison.difference.high
    assert low <= high
    expected = "no worse" if high < margin else "worse" if low > margin else "undecided"
    assert comparison.verdict == expected


@pytest.mark.parametrize("rows", [0, 1, 499])
def test_too_few_rows_give_no_verdict(rows: int) -> None:
    champion = scored(0.05)
    comparison = compared(champion, champion.take(np.arange(rows)))
    assert (comparison.verdict, comparison.rows) == ("too few rows", rows)
    decision = decide(comparison, due="it has decayed", confirm=False)
    assert decision.kind == "keep"
    assert f"{rows} rows" in decision.reason
    assert "500" in decision.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_undefined_metric_never_promotes(value: float) -> None:
    champion = scored(0.05)
    predicted = champion.predicted.copy()
    predicted[5] = value
    broken = replace(champion, predicted=predicted)
    for pair in ((champion, broken), (broken, champion)):
        comparison = compared(*pair)
        assert comparison.verdict == "undefined"
        decision = decide(comparison, due="it has decayed", confirm=False)
        assert decision.kind == "keep"
        assert "median_absolute_percentage_error is undefined" in decision.reason


def test_a_champion_without_error_is_hard_to_follow_and_not_undefined() -> None:
    perfect = replace(scored(0.05), predicted=scored(0.05).actual)
    assert compared(perfect, scored(0.05)).verdict == "worse"
    assert compared(perfect, perfect).verdict == "no worse"
    assert compared(scored(0.05), perfect).difference.estimate == -1


@pytest.mark.parametrize(
    ("verdict", "due", "kind"),
    [
        ("no worse", False, "promote"),
        ("no worse", True, "promote"),
        ("undecided", True, "promote"),
        ("undecided", False, "keep"),
        ("worse", True, "keep"),
        ("worse", False, "keep"),
    ],
)
def test_what_is_undecided_takes_over_where_bias_asked_for_it(
    verdict: Verdict, due: bool, kind: str
) -> None:
    comparison = Comparison(
        "mdape", 800, 500, 0.02, 9.5, 9.3, Interval(-0.02, -0.05, 0.01), verdict
    )
    decision = decide(comparison, due="it has decayed" if due else None, confirm=False)
    assert decision.kind == kind
    assert "mdape 9.3 against 9.5 on 800 rows" in decision.reason
    waiting = decide(comparison, due="it has decayed" if due else None, confirm=True)
    assert waiting.kind == ("confirm" if kind == "promote" else "keep")
    assert ("A person must confirm" in waiting.reason) == (kind == "promote")
