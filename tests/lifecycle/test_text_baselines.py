"""The baselines that a language model is compared with."""

import math

import numpy as np
import pytest

from sf_sagemaker.lifecycle.text_baselines import (
    NoRows,
    fit_constant_answer,
    fit_word_model,
    score_answers,
)

PROMPTS = ["aborted take off", "take off aborted", "returned and landed", "landed safely", "landed"]
COMPLETIONS = ["abort", "abort", "landing", "landing", "landing"]


def test_the_constant_answer_is_the_commonest():
    constant = fit_constant_answer(COMPLETIONS)
    assert constant.answers == ("abort", "landing")
    assert constant.predict(["anything", "aborted"]) == ["landing", "landing"]
    assert constant.probabilities(["anything"]).tolist() == [[0.4, 0.6]]
    scores = score_answers(constant, PROMPTS, COMPLETIONS)
    assert scores["rows"] == 5
    assert scores["exact_match"] == 0.6
    assert scores["log_loss"] == pytest.approx(-(0.4 * math.log(0.4) + 0.6 * math.log(0.6)))


def test_the_word_model_learns_which_words_go_with_which_answer():
    words = fit_word_model(PROMPTS, COMPLETIONS)
    assert words.predict(["was aborted", "has landed"]) == ["abort", "landing"]
    probabilities = words.probabilities(PROMPTS)
    assert probabilities.shape == (5, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    constant = score_answers(fit_constant_answer(COMPLETIONS), PROMPTS, COMPLETIONS)
    scores = score_answers(words, PROMPTS, COMPLETIONS)
    assert scores["exact_match"] == 1
    assert scores["log_loss"] < constant["log_loss"]


def test_equal_rows_make_equal_models():
    first, second = (fit_word_model(PROMPTS, COMPLETIONS) for _ in range(2))
    assert first.probabilities(PROMPTS).tolist() == second.probabilities(PROMPTS).tolist()


def test_an_answer_that_training_never_saw_is_wrong_and_costs_a_finite_loss():
    words = fit_word_model(PROMPTS, COMPLETIONS)
    scores = score_answers(words, ["landed"], ["go around"])
    assert scores["exact_match"] == 0
    assert scores["log_loss"] == pytest.approx(-math.log(1e-6))


def test_nothing_asked_is_nothing_answered():
    for baseline in (fit_constant_answer(COMPLETIONS), fit_word_model(PROMPTS, COMPLETIONS)):
        assert baseline.predict([]) == []
        assert baseline.probabilities([]).shape == (0, 2)


def test_no_rows_are_an_error():
    with pytest.raises(NoRows, match="no training rows"):
        fit_constant_answer([])
    with pytest.raises(NoRows, match="2 training rows have 1 different completions"):
        fit_word_model(["a", "b"], ["landing", "landing"])
    with pytest.raises(NoRows, match="no rows to score"):
        score_answers(fit_constant_answer(COMPLETIONS), [], [])
