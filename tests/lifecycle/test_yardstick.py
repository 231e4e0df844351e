"""Whether a fine-tuned model is worth it, computed from who was right on which row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.lifecycle.yardstick import (
    Contestant,
    NothingToCompare,
    judge,
    place,
    plain_answer,
)

CLAUDE = ("Claude",)


def right(share: float, rows: int = 400, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(rows) < share).astype(float)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("landing", "landing"),
        (" Landing.\n", "landing"),
        ('"Landing"', "landing"),
        ("**landing**.", "landing"),
        ("“go  around”", "go around"),
        ("abort landing", "abort landing"),
        ("3.5", "3.5"),
        ("", ""),
        (".", ""),
    ],
)
def test_what_makes_no_difference_to_an_answer(text: str, plain: str) -> None:
    assert plain_answer(text) == plain


@given(st.text())
def test_a_plain_answer_is_plain(text: str) -> None:
    assert plain_answer(plain_answer(text)).strip() == plain_answer(plain_answer(text))


def test_shares_and_differences_are_of_the_rows_that_were_answered() -> None:
    own = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    other = np.array([1.0, 0.0, np.nan, np.nan, 1.0, 0.0])
    first, second = place(Contestant("own", own), [Contestant("Claude", other)], seed=1)
    assert first.share.estimate == 0.5
    assert (first.rows, second.rows, second.common) == (6, 4, 4)
    assert second.share.estimate == 0.5
    assert second.difference.estimate == pytest.approx(2 / 4 - 2 / 4)
    assert first.difference.estimate == 0
    assert second.difference.low <= 0 <= second.difference.high
    assert place(Contestant("own", own), [Contestant("Claude", other)], seed=1) is not None
    nothing = np.full(3, np.nan)
    with pytest.raises(NothingToCompare):
        place(Contestant("own", nothing), [Contestant("Claude", nothing)], seed=1)


def test_pairing_tells_apart_what_shares_alone_dont() -> None:
    """Two models that differ on few rows, always in the same direction."""
    own = right(0.7)
    other = own.copy()
    other[np.flatnonzero(own)[:12]] = 0
    first, second = place(Contestant("own", own), [Contestant("Claude", other)], seed=1)
    assert first.share.low < second.share.high
    assert second.difference.high < 0


@pytest.mark.parametrize(
    ("own", "other", "better", "says"),
    [
        (right(0.9), right(0.6, seed=1), True, "Yes: on the 400 rows that both answered"),
        (right(0.6), right(0.9, seed=1), False, "Not for its answers: on the 400 rows"),
        (right(0.8), right(0.8), None, "can't be told apart: the difference is +0.0 points"),
    ],
)
def test_the_sentence_says_who_is_better(
    own: np.ndarray, other: np.ndarray, better: bool | None, says: str
) -> None:
    placings = place(
        Contestant("fine-tuned model", own),
        [Contestant("Claude", other, 0.5, 1.25), Contestant("word model", right(0.2), 0, 0)],
        seed=1,
    )
    verdict = judge(placings, CLAUDE, currency="USD", training_cost=2.5)
    assert verdict.better is better
    assert says in verdict.sentence
    assert "A thousand answers of Claude cost 1.2 USD" in verdict.sentence
    assert "Training cost 2.50 USD, what Claude takes for 2,000 answers" in verdict.sentence
    assert "word model" not in verdict.sentence
    assert "USD" not in judge(placings, CLAUDE).sentence


def test_the_better_of_several_rivals_is_the_yardstick() -> None:
    own = Contestant("fine-tuned model", right(0.7))
    rivals = [
        Contestant("zero", right(0.5, seed=2), 1, 1),
        Contestant("few", right(0.95, seed=3), 1, 1),
        Contestant("word model", right(0.9, seed=4), 0, 0),
    ]
    verdict = judge(place(own, rivals, seed=1), ("zero", "few"))
    assert verdict.better is False
    assert "few is right more often" in verdict.sentence
    assert "The word model is as good as the fine-tuned model" in verdict.sentence
    few = [Contestant("few", right(0.1, 400))]
    few[0].right[20:] = np.nan
    assert (
        "20 rows that both answered are too few"
        in judge(place(own, few, seed=1), ("few",)).sentence
    )
    unanswered = [Contestant("few", np.full(400, np.nan))]
    assert judge(place(own, unanswered, seed=1), ("few",)).better is None
