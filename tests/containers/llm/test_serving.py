"""A fine-tuned language model behind an endpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from containers.training_container import Tables
from sf_sagemaker.containers.llm.model import load_model
from sf_sagemaker.containers.serving.golden import golden_request
from sf_sagemaker.containers.serving.llm_handler import MAX_INSTANCES, LanguageModelHandler
from sf_sagemaker.containers.serving.loading import load
from sf_sagemaker.containers.serving.requests import RequestRefused, UnsupportedMediaType

pytestmark = pytest.mark.slow

PROMPT = "Phase: climb. Remark: bird went into the engine. Effect:"


@pytest.fixture(scope="module")
def handler(trained: Path) -> LanguageModelHandler:
    loaded = load(trained)  # asks it its golden rows
    assert isinstance(loaded, LanguageModelHandler)
    return loaded


def ask(handler: LanguageModelHandler, *rows: object) -> list[dict]:
    body, content_type = handler.answer(json.dumps({"instances": rows}).encode(), "", "*/*")
    assert content_type == "application/json"
    return json.loads(body)["predictions"]


def test_prompts_are_answered_as_the_model_answers_them(
    handler: LanguageModelHandler, trained: Path, reports: Tables
) -> None:
    (test,) = reports["test"]
    prompts = test["prompt"].to_pylist()[:8]
    completions = test["completion"].to_pylist()[:8]
    rows = [
        {"prompt": f" {prompt} ", "completion": completion}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    found = ask(handler, *rows, {"prompt": PROMPT})
    model = load_model(trained)
    assert [one["prediction"] for one in found[:-1]] == model.predict(prompts)
    losses = model.completion_loss(prompts, completions)
    np.testing.assert_allclose([one["loss"] for one in found[:-1]], losses, rtol=1e-4)
    assert "loss" not in found[-1]
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["probabilities"][one["prediction"]] == one["probability"]


def test_golden_rows_agree_only_with_what_the_card_says(
    handler: LanguageModelHandler, trained: Path
) -> None:
    golden = golden_request(trained)
    assert golden is not None
    body, _ = handler.answer(golden.body, "", "")
    assert golden.difference(body) is None
    predictions = json.loads(body)["predictions"]
    predictions[0]["loss"] += 0.5
    assert "golden row 1 has the loss" in str(
        golden.difference(json.dumps({"predictions": predictions}).encode())
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 1 has no 'prompt'"),
        ({"prompt": 5}, "'prompt' is 5: expected a text"),
        ({"prompt": "  "}, "expected a text"),
        ({"prompt": PROMPT, "temperature": 1}, "'temperature', which the model doesn't know"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": PROMPT, "completion": "word " * 5000}, "tokens"),
    ],
)
def test_rows_that_the_model_doesnt_take(
    handler: LanguageModelHandler, row: dict, message: str
) -> None:
    with pytest.raises(RequestRefused, match=message):
        ask(handler, row)


def test_more_rows_than_are_answered_in_time_and_other_types(handler: LanguageModelHandler) -> None:
    with pytest.raises(RequestRefused, match=f"send up to {MAX_INSTANCES}"):
        ask(handler, *[{"prompt": PROMPT}] * (MAX_INSTANCES + 1))
    with pytest.raises(UnsupportedMediaType, match=r"text/csv.*expected application/json"):
        handler.answer(PROMPT.encode(), "text/csv", "")


def test_a_row_without_a_prompt_fails_no_batch(handler: LanguageModelHandler) -> None:
    batch = LanguageModelHandler(handler.model, batch=True)
    empty, missing, asked = ask(batch, {"prompt": " "}, {"prompt": None}, {"prompt": PROMPT})
    assert empty == missing
    assert empty["prediction"] == handler.model.predict([""])[0]
    assert asked["prediction"] == ask(handler, {"prompt": PROMPT})[0]["prediction"]
    with pytest.raises(RequestRefused, match="'prompt' is 5: expected a text"):
        ask(batch, {"prompt": 5})


def test_a_batch_transform_sends_lines_and_more_of_them(handler: LanguageModelHandler) -> None:
    batch = LanguageModelHandler(handler.model, batch=True)
    rows = [{"prompt": PROMPT}] * MAX_INSTANCES + [{"prompt": f"{PROMPT} again"}]
    body = "\n".join(json.dumps(row) for row in rows).encode()
    answer, content_type = batch.answer(body, "application/jsonlines", "application/jsonlines")
    assert content_type == "application/jsonlines"
    lines = [json.loads(line) for line in answer.splitlines()]
    assert len(lines) == len(rows)
    assert lines[0] == lines[MAX_INSTANCES - 1] == ask(handler, rows[0])[0]
    assert lines[-1] == ask(handler, rows[-1])[0]
    with pytest.raises(RequestRefused, match=f"send up to {MAX_INSTANCES}"):
        handler.answer(body, "application/jsonlines", "")
