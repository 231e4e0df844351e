"""What a model is told before a prompt, and what it must never be told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.serving.few_shot import (
    Row,
    allowed_answers,
    barred_prompts,
    choose_examples,
    contains_a_value,
    may_send,
    system_prompt,
)


def rows(*completions: str) -> list[Row]:
    return [Row((i,), f"prompt {i}", completion) for i, completion in enumerate(completions)]


@pytest.mark.parametrize(
    ("text", "value", "contains"),
    [
        ("Called by Ann Lee.", "ann  LEE", True),
        ("Called by Ann\nLee.", "Ann Lee", True),
        ("Called by Annette.", "Ann", True),  # rather too much is kept back
        ("Called by Bob.", "Ann", False),
        ("Account 4711.", "4711.0", True),
        ("Account 4711.", "4711.5", False),
        ("Anything", "", False),
        ("Anything", "  ", False),
        ("Anything", None, False),
    ],
)
def test_which_texts_contain_a_value(text: str, value: str | None, contains: bool) -> None:
    assert contains_a_value(text, [value]) is contains


@given(st.text(), st.text(min_size=1), st.text())
def test_a_value_in_a_text_is_always_found(before: str, value: str, after: str) -> None:
    if value.strip():
        assert contains_a_value(f"{before} {value} {after}", [None, value])
        assert contains_a_value(f"{before} {value.upper()} {after}", [value.upper()])


def test_a_row_is_withheld_by_its_own_values() -> None:
    row = Row((7,), "The caller is Ann.", "Answer Bob.")
    assert may_send(row, None, completion=True)
    assert not may_send(row, {(7,): ("Ann",)}, completion=False)
    assert may_send(row, {(7,): ("Bob",)}, completion=False)
    assert not may_send(row, {(7,): ("Bob",)}, completion=True)
    assert may_send(row, {(7,): (None, "Carl")}, completion=True)
    assert not may_send(row, {(8,): ("Carl",)}, completion=False)  # it can't be looked at


def test_a_prompt_is_withheld_with_the_same_one_of_another_row() -> None:
    told = [Row((i,), "The caller is Ann.", "x") for i in range(2)] + rows("y")[:1]
    values = {(0,): ("Ann",), (1,): ("Bob",)}
    assert barred_prompts(told[:2], values) == {"The caller is Ann."}
    assert barred_prompts(told, None) == frozenset()


def test_answers_are_a_list_only_where_there_are_few() -> None:
    assert allowed_answers(rows("b", "a", "b"), None, 2) == ("a", "b")
    assert allowed_answers(rows("b", "a", "c"), None, 2) == ()
    assert allowed_answers(rows("Ann", "x", "x"), {(0,): ("ann",), (1,): ("y",), (2,): ()}, 5) == (
        "x",
    )


def test_examples_are_balanced_and_follow_the_seed() -> None:
    known = rows(*["common"] * 30, *["rare"] * 3, "once")
    chosen = choose_examples(known, 6, seed=7)
    assert sorted(answer for _, answer in chosen) == ["common"] * 3 + ["once"] + ["rare"] * 2
    assert chosen == choose_examples(known[::-1], 6, seed=7)
    assert chosen != choose_examples(known, 6, seed=8)
    assert set(chosen) <= {(row.prompt, row.completion) for row in known}
    assert len(choose_examples(known, 100, seed=7)) == 34
    assert choose_examples([], 4, seed=7) == ()


def test_the_system_prompt_names_the_answers() -> None:
    assert "a, b" in system_prompt(None, ("a", "b"))
    told = system_prompt(" Name it. ", ())
    assert told.startswith("Name it.\n")
    assert "alone" in told
