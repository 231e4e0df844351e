"""Fine-tuning a tiny random model, in this process: what it learns, and that it can be repeated."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from containers.llm.conftest import WORDS, StopAfter
from sf_sagemaker.containers.environment import Stopped
from sf_sagemaker.containers.llm.model import load_model
from sf_sagemaker.containers.serving.llm_handler import LanguageModelHandler
from sf_sagemaker.containers.serving.requests import RequestRefused

ADAPTER = "adapter_model.safetensors"


def card_of(model: Path) -> dict[str, Any]:
    return json.loads((model / "model-card.json").read_text())


def adapter_of(model: Path) -> bytes:
    return (model / ADAPTER).read_bytes()


def test_training_lowers_the_loss_of_later_reports(trained):
    card = card_of(trained)
    after, before = card["metrics"]["test"], card["prompted_base"]["test"]
    assert after["rows"] == before["rows"] == 40
    assert after["completion_loss"] < 1.5
    assert before["completion_loss"] > 5
    assert math.isclose(after["completion_perplexity"], math.exp(after["completion_loss"]))
    # given that it is one of the answers, chance would have log(4) = 1.386
    assert after["answer_log_loss"] < 1.2
    assert after["answer_log_loss"] <= after["completion_loss"]


def test_the_card_tells_how_training_went(trained):
    card = card_of(trained)
    assert card["answers"] == ["abort", "landing", "other", "shutdown"]
    assert card["steps"] == 60  # two epochs of 240 rows in batches of eight
    curve = card["learning_curve"]
    assert curve["train"]["step"] == list(range(1, 61))
    assert curve["validation"]["step"] == [15, 30, 45, 60]
    assert sum(curve["train"]["loss"][-10:]) < 0.5 * sum(curve["train"]["loss"][:10])
    confusion = card["confusion"]["test"]
    assert confusion["actual"] == confusion["given"] == card["answers"]
    right = sum(confusion["counts"][i][i] for i in range(4))
    assert sum(map(sum, confusion["counts"])) == 40
    assert right / 40 == card["metrics"]["test"]["exact_match"]
    assert len(card["samples"]) == 10
    assert len(card["golden_rows"]) == 8
    assert card["cut_prompts"] == {"train": 0, "validation": 0, "test": 0}
    assert card["unseen_completions"] == {"validation": {}, "test": {}}
    assert {"torch", "transformers", "peft"} <= card["library_versions"].keys()


def test_long_completions_are_written_to_their_end(new_job, reports):
    long = {word: f"{word} " + "and back to where it came from " * 4 for word in WORDS.values()}

    def lengthened(table: pa.Table) -> pa.Table:
        texts = [long[word].strip() for word in table["completion"].to_pylist()]
        return table.set_column(2, "completion", pa.array(texts))

    tables = {split: [lengthened(part) for part in parts] for split, parts in reports.items()}
    model = load_model(new_job(tables).train(answers=0, max_tokens=128))
    assert model.card.answers == ()
    assert model.card.answer_tokens > 24
    completions = {sample.completion for sample in model.card.samples}
    assert {sample.after for sample in model.card.samples} <= {
        text.strip() for text in long.values()
    }
    assert any(sample.after in completions for sample in model.card.samples)
    (test,) = tables["test"]
    written = model.generate(test["prompt"].to_pylist()[:32])
    right = np.mean([a == b for a, b in zip(written, test["completion"].to_pylist(), strict=False)])
    assert right == model.card.metrics["test"]["exact_match"] > 0.2

    handler = LanguageModelHandler(model)
    asked = [{"prompt": prompt} for prompt in test["prompt"].to_pylist()]
    body, _ = handler.answer(json.dumps({"instances": asked[:4]}).encode(), "", "")
    assert [one["prediction"] for one in json.loads(body)["predictions"]] == written[:4]
    with pytest.raises(RequestRefused, match=f"send up to {64 * 16 // model.card.answer_tokens}"):
        handler.answer(json.dumps({"instances": asked}).encode(), "", "")


def test_the_artifact_names_its_base_and_no_path_of_this_machine(trained, tiny_base):
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == card_of(trained)["base_model"]["name"]
    assert not (trained / "README.md").exists()
    assert {path.suffix for path in trained.iterdir()} == {".json", ".safetensors"}


def test_equal_trainings_make_equal_models(trained, new_job, reports):
    again = new_job(reports).train()
    assert adapter_of(again) == adapter_of(trained)
    assert card_of(again) == card_of(trained)


def test_another_seed_makes_another_model(trained, new_job, reports):
    assert adapter_of(new_job(reports).train(seed=2)) != adapter_of(trained)


@pytest.mark.parametrize("steps", [10, 25])
def test_a_resumed_training_makes_the_same_model(trained, new_job, reports, capsys, steps):
    job = new_job(reports)
    # one look at each of the three splits and after the base was found, then one a step
    with pytest.raises(Stopped, match=rf"after step {steps}: no model was written"):
        job.train(StopAfter(4 + steps))
    assert not (job.container.root() / "model" / "model-card.json").exists()
    resumed = job.train()
    assert f"resuming after step {steps}" in capsys.readouterr().out
    assert adapter_of(resumed) == adapter_of(trained)
    assert card_of(resumed) == card_of(trained)


def test_a_damaged_checkpoint_is_passed_over(trained, new_job, reports, capsys):
    job = new_job(reports)
    with pytest.raises(Stopped):
        job.train(StopAfter(4 + 13))
    older, newer = sorted((job.container.root() / "checkpoints").iterdir())
    content = bytearray(newer.read_bytes())
    content[-1] ^= 1
    newer.write_bytes(content)
    resumed = job.train()
    output = capsys.readouterr().out
    assert f"passed over {newer.name}: its tensors are not what was written" in output
    assert "resuming after step 12" in output
    assert older.name == "checkpoint-000012.safetensors"
    assert adapter_of(resumed) == adapter_of(trained)


def test_a_checkpoint_of_another_training_is_passed_over(new_job, reports, capsys):
    job = new_job(reports)
    with pytest.raises(Stopped):
        job.train(StopAfter(4 + 3))
    job.train(learning_rate=0.01)
    output = capsys.readouterr().out
    assert "it is of a training with other data or hyperparameters" in output
    assert "resuming" not in output


def test_the_base_is_told_what_the_instruction_says(trained, new_job, reports):
    card = card_of(trained)
    assert card["instruction"] == "The answer is one of: abort, landing, other, shutdown."
    other = card_of(new_job(reports).train(epochs=0.1, instruction="What came of it?"))
    assert other["instruction"] == "What came of it?"
    assert other["prompted_base"]["test"] != card["prompted_base"]["test"]


def test_the_last_layers_alone_can_be_trained(new_job, reports):
    card = card_of(new_job(reports).train(lora_layers=1, lora_targets="q_proj,v_proj"))
    # rank 8: eight times (128 in + 128 out) for q_proj, and (128 + 64) for v_proj
    assert card["trainable_parameters"] == 8 * (256 + 192)


def close(one: Path, other: Path, tolerance: float) -> None:
    """That two trainings went alike, step by step."""
    curves = [card_of(model)["learning_curve"] for model in (one, other)]
    for split in ("train", "validation"):
        losses = [curve[split]["loss"] for curve in curves]
        np.testing.assert_allclose(*losses, rtol=tolerance)


@pytest.mark.parametrize(
    "saving",
    [{"micro_batch_size": 3}, {"micro_batch_size": 1}, {"gradient_checkpointing": "true"}],
    ids=str,
)
def test_what_saves_memory_trains_the_same(new_job, reports, saving):
    settings = {"learning_rate": 0.002, "epochs": 1}
    whole = new_job(reports).train(**settings)
    close(new_job(reports).train(**settings, **saving), whole, 2e-3)


def test_a_base_in_bfloat16_learns_as_well(new_job, reports, capsys):
    settings = {"learning_rate": 0.002, "epochs": 2}
    whole = new_job(reports).train(**settings)
    half = new_job(reports).train(**settings, precision="bfloat16")
    assert "training on 1 x cpu in bfloat16" in capsys.readouterr().out
    assert (card_of(whole)["precision"], card_of(half)["precision"]) == ("float32", "bfloat16")
    losses = [card_of(m)["metrics"]["test"]["completion_loss"] for m in (whole, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    # The adapter is float32, and answers in float32 nearly as it did: its golden rows say so.
    tensors = load_file(half / ADAPTER)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert load_model(half).card.precision == "bfloat16"
