"""Losses and answers against the plain way to compute them, and the order of examples."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.containers.llm.base_model import find_base_model
from sf_sagemaker.containers.llm.examples import (
    Encoded,
    Example,
    cut_prompt,
    encode,
    encode_completion,
)
from sf_sagemaker.containers.llm.hyperparameters import Hyperparameters
from sf_sagemaker.containers.llm.model import load_base
from sf_sagemaker.containers.llm.scoring import (
    answer_scores,
    completion_losses,
    generate,
    make_batch,
    summed_loss,
)
from sf_sagemaker.containers.llm.tuning import plan_batches

EXAMPLES = [
    Example("Phase: climb. Remark: retd. Effect:", "landing"),
    Example("Phase: take off run. Remark: 3 gulls struck the l wing. Effect:", "abort and return"),
    Example("Phase: unknown. Remark: no damage. Effect:", "other"),
]


@pytest.fixture(scope="module")
def base(tiny_base) -> tuple[Any, Any]:
    """The tiny model in float64, so that only real differences show, and its tokenizer."""
    model, tokenizer = load_base(find_base_model(str(tiny_base)))
    return model.double(), tokenizer


def plain_loss(model, example: Encoded) -> list[float]:
    """The losses of a completion's tokens, one row at a time, from the logits of all positions."""
    ids = torch.tensor([[*example.prompt, *example.completion]])
    with torch.inference_mode():
        likelihoods = model(input_ids=ids).logits[0].float().log_softmax(-1)
    start = len(example.prompt)
    return [-likelihoods[start + i - 1, token].item() for i, token in enumerate(example.completion)]


def test_losses_are_those_of_one_row_at_a_time(base):
    model, tokenizer = base
    encoded = encode(EXAMPLES, tokenizer, 96)
    assert len({len(example) for example in encoded}) == 3  # so that padding is at work
    expected = [sum(plain_loss(model, example)) for example in encoded]
    found = completion_losses(model, encoded, tokenizer.eos_token_id)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_prompts_have_no_part_in_the_training_loss(base):
    model, tokenizer = base
    encoded = encode(EXAMPLES, tokenizer, 96)
    batch = make_batch([e.prompt for e in encoded], [e.completion for e in encoded], pad=0)
    expected = np.sum([loss for e in encoded for loss in plain_loss(model, e)])
    assert summed_loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_answers_score_as_completions_do(base):
    model, tokenizer = base
    answers = ["landing", "abort and return", "other"]
    scores = answer_scores(
        model,
        [e.prompt for e in encode(EXAMPLES, tokenizer, 96)],
        [encode_completion(answer, tokenizer) for answer in answers],
        tokenizer.eos_token_id,
    )
    for column, answer in enumerate(answers):
        asked = encode([Example(e.prompt, answer) for e in EXAMPLES], tokenizer, 96)
        losses = completion_losses(model, asked, tokenizer.eos_token_id)
        np.testing.assert_allclose(scores[:, column], -losses, rtol=1e-5)


def test_generated_tokens_are_the_likeliest(base):
    model, tokenizer = base
    prompts = [e.prompt for e in encode(EXAMPLES, tokenizer, 96)]
    end = tokenizer.eos_token_id
    for prompt, written in zip(prompts, generate(model, prompts, end, end, 5), strict=True):
        ids = list(prompt)
        expected = []
        while len(expected) < 5:
            with torch.inference_mode():
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == end:
                break
            expected.append(token)
            ids.append(token)
        assert written == expected


def test_nothing_is_generated_from_nothing(base):
    assert generate(base[0], [], 0, 0, 5) == []


def test_a_completion_starts_with_a_space_and_ends(base):
    _, tokenizer = base
    ids = encode_completion("landing", tokenizer)
    assert tokenizer.decode(ids[:-1]) == " landing"
    assert ids[-1] == tokenizer.eos_token_id


@given(ids=st.lists(st.integers(0, 9), max_size=60), room=st.integers(16, 50))
def test_a_cut_prompt_keeps_its_start_and_its_question(ids, room):
    cut = cut_prompt(ids, room)
    assert len(cut) == min(len(ids), room)
    assert list(cut[: room - 8]) == ids[: room - 8]
    assert list(cut[-8:]) == ids[-8:]


def encoded_rows(completions: list[int]) -> list[Encoded]:
    return [Encoded((1,) * (i % 7 + 1), (c, 0), cut=False) for i, c in enumerate(completions)]


def settings(**changed: Any) -> Hyperparameters:
    return Hyperparameters(base_model="-", **changed)


@given(
    count=st.integers(2, 200),
    size=st.integers(1, 16),
    seed=st.integers(0, 1000),
)
def test_an_epoch_has_each_example_once(count, size, seed):
    plan = plan_batches(
        encoded_rows([i % 3 for i in range(count)]),
        settings(epochs=1, batch_size=size, seed=seed),
    )
    assert sorted(i for batch in plan for i in batch) == list(range(count))
    assert all(len(batch) <= size for batch in plan)


@given(seed=st.integers(0, 1000))
def test_a_balanced_epoch_has_each_completion_as_often(seed):
    completions = [1] * 80 + [2] * 30 + [3] * 10
    plan = plan_batches(encoded_rows(completions), settings(epochs=1, balance=1, seed=seed))
    counts = Counter(completions[i] for batch in plan for i in batch)
    assert sum(counts.values()) == 120
    assert all(39 <= count <= 41 for count in counts.values())


def test_the_seed_decides_the_order():
    rows = encoded_rows([i % 3 for i in range(100)])
    first = plan_batches(rows, settings(seed=1))
    assert first == plan_batches(rows, settings(seed=1))
    assert first != plan_batches(rows, settings(seed=2))


def test_epochs_may_be_a_fraction():
    rows = encoded_rows([i % 3 for i in range(100)])
    assert len(plan_batches(rows, settings(epochs=0.5, batch_size=10))) == 5
    assert len(plan_batches(rows, settings(epochs=2.5, batch_size=10))) == 25
