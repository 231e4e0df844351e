"""Loading a model: its base, its versions, its golden rows; and asking it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sf_sagemaker.containers.errors import GoldenRowMismatch, ModelUnusable, VersionMismatch
from sf_sagemaker.containers.llm import model as model_module
from sf_sagemaker.containers.llm.base_model import BaseModelMismatch, find_base_model
from sf_sagemaker.containers.llm.model import NoFixedAnswers, load_base, load_model
from sf_sagemaker.containers.model_card import InvalidModelCard


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained model to change."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


def change_card(folder: Path, **changed: object) -> None:
    path = folder / "model-card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_loaded_model_answers_as_it_was_scored(trained, reports):
    model = load_model(trained)
    (test,) = reports["test"]
    prompts, completions = test["prompt"].to_pylist(), test["completion"].to_pylist()
    metrics = model.card.metrics["test"]
    right = np.mean([a == b for a, b in zip(model.predict(prompts), completions, strict=True)])
    assert right == metrics["exact_match"]
    losses = model.completion_loss(prompts, completions)
    assert losses.shape == (40,)
    assert losses.mean() == pytest.approx(metrics["completion_loss"], rel=1e-4)
    probabilities = model.answer_probabilities(prompts)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    index = [model.card.answers.index(completion) for completion in completions]
    log_loss = -np.log(probabilities[np.arange(40), index]).mean()
    assert log_loss == pytest.approx(metrics["answer_log_loss"], rel=1e-4)
    samples = model.card.samples
    assert model.generate([s.prompt for s in samples]) == [s.after for s in samples]
    with model.untuned():
        assert model.completion_loss(prompts, completions).mean() > 5
    assert model.completion_loss(prompts, completions).mean() == pytest.approx(losses.mean())


def test_nothing_asked_is_nothing_answered(trained):
    model = load_model(trained)
    assert model.predict([]) == []
    assert model.answer_probabilities([]).shape == (0, 4)
    assert model.completion_loss([], []).shape == (0,)
    assert model.generate([]) == []


def test_an_empty_prompt_is_asked_as_the_start_of_a_text(trained):
    model = load_model(trained)
    probabilities = model.answer_probabilities([""])
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert model.predict(["", ""]) == model.predict([str(model.tokenizer.eos_token)]) * 2
    assert len(model.generate([""])) == 1
    # what stands beside it in a batch changes nothing
    losses = model.completion_loss(["", "Remark: retd. Effect:"], ["landing", "landing"])
    assert losses[0] == pytest.approx(model.completion_loss([""], ["landing"])[0], rel=1e-4)


def test_another_base_is_refused(copy, tiny_base, tmp_path):
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(BaseModelMismatch, match="an adapter fits its own base only"):
        load_model(copy, str(other))


def test_the_same_base_elsewhere_will_do(copy, tiny_base, tmp_path):
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    assert load_model(copy, str(moved)).predict(["Phase: climb. Remark: retd. Effect:"])


def test_another_release_of_the_library_is_refused(copy):
    card = json.loads((copy / "model-card.json").read_text())
    change_card(copy, library_versions=card["library_versions"] | {"transformers": "4.57.0"})
    with pytest.raises(VersionMismatch, match=r"trained with transformers 4\.57\.0"):
        load_model(copy)


def test_adapters_of_older_releases_of_peft_are_read_and_of_newer_ones_not(copy):
    versions = json.loads((copy / "model-card.json").read_text())["library_versions"]
    change_card(copy, library_versions=versions | {"peft": "0.18.1"})
    assert load_model(copy).predict(["Phase: climb. Remark: retd. Effect:"])
    change_card(copy, library_versions=versions | {"peft": "0.99.0"})
    with pytest.raises(VersionMismatch, match=r"trained with peft 0\.99\.0.*install 0\.99\.0"):
        load_model(copy)


def test_a_base_that_is_larger_than_the_memory_is_not_loaded(trained, monkeypatch):
    monkeypatch.setattr(model_module, "_free_memory", lambda: 2**20)
    with pytest.raises(ModelUnusable, match=r"takes 0\.0 GiB in float32, and 0\.0 GiB .* free"):
        load_model(trained)
    monkeypatch.setattr(model_module, "_free_memory", lambda: 2**28)
    assert load_model(trained).card.precision == "float32"


@pytest.mark.parametrize(("native", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_not_taken_from_gpus_that_only_emulate_it(
    tiny_base, monkeypatch, native: bool, precision: torch.dtype
):
    """No GPU is here: its presence is pretended, and the weights stay with the CPU."""
    load = model_module.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    monkeypatch.setattr(
        model_module.AutoModelForCausalLM,
        "from_pretrained",
        lambda folder, **options: load(folder, **{**options, "device_map": None}),
    )
    loaded, _ = load_base(find_base_model(str(tiny_base)))
    assert loaded.dtype is precision


def test_free_memory_is_some_of_this_machine_s():
    free = model_module._free_memory()
    assert free is not None
    assert 2**20 < free < 2**50


def test_other_losses_than_in_training_are_noticed(copy):
    card = json.loads((copy / "model-card.json").read_text())
    card["golden_rows"][0]["loss"] += 0.2
    change_card(copy, golden_rows=card["golden_rows"])
    with pytest.raises(GoldenRowMismatch, match="its files don't belong together"):
        load_model(copy)


def test_a_missing_adapter_is_named(copy):
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"adapter_model\.safetensors is missing"):
        load_model(copy)


def test_a_truncated_adapter_is_refused(copy):
    path = copy / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelUnusable, match="is not whole or not of this base"):
        load_model(copy)


def test_a_card_of_another_kind_is_refused(copy):
    change_card(copy, features=[])
    with pytest.raises(InvalidModelCard, match="is not the card of a language model"):
        load_model(copy)


def test_answers_that_are_no_list_are_not_ranked(copy):
    change_card(copy, answers=[])
    model = load_model(copy)
    with pytest.raises(NoFixedAnswers, match="use generate"):
        model.predict(["Phase: climb. Remark: retd. Effect:"])
