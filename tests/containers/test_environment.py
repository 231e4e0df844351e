"""The container contract where the platform sets no SM_* variables: its files say the same."""

import json
from pathlib import Path

import pytest

from sf_sagemaker.containers.environment import Environment, InvalidEnvironment


@pytest.fixture
def base(tmp_path: Path) -> Path:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    for name, content in {
        "hyperparameters": {"max_depth": "6", "label": "a b"},
        "inputdataconfig": {"train": {"TrainingInputMode": "File"}, "code": {}},
        "resourceconfig": {"current_host": "algo-2", "hosts": ["algo-10", "algo-1", "algo-2"]},
    }.items():
        (config / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_the_files_are_read_where_there_are_no_variables(base: Path) -> None:
    environment = Environment.read({"SAGEMAKER_BASE_DIR": str(base)})
    assert environment.model_dir == base / "model"
    assert environment.output_data_dir == base / "output" / "data"
    assert environment.checkpoint_dir == base / "checkpoints"
    assert environment.failure_file == base / "output" / "failure"
    assert environment.channel("train") == base / "input" / "data" / "train"
    assert environment.hyperparameters == {"max_depth": "6", "label": "a b"}
    assert environment.hosts == ("algo-1", "algo-2", "algo-10")
    assert environment.current_host == "algo-2"


def test_variables_win_over_files(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "elsewhere" / "model"
    environment = Environment.read(
        {"SAGEMAKER_BASE_DIR": str(base), "SM_MODEL_DIR": str(model), "SM_HPS": '{"eta": "0.1"}'}
    )
    assert environment.model_dir == model
    assert environment.hyperparameters == {"eta": "0.1"}
    assert environment.channels == {}


def test_files_that_are_damaged_are_named(base: Path) -> None:
    (base / "input" / "config" / "resourceconfig.json").write_text("{")
    with pytest.raises(InvalidEnvironment, match=r"input/config are not JSON"):
        Environment.read({"SAGEMAKER_BASE_DIR": str(base)})
