"""Loading a model: only where it predicts as it did when it was trained."""

import json
import shutil
from pathlib import Path

import pytest

from containers.training_container import Container, Tables, one_shard
from sf_sagemaker.containers.xgboost.model import (
    GoldenRowMismatch,
    ModelUnusable,
    VersionMismatch,
    load_model,
)
from sf_sagemaker.containers.xgboost.model_card import InvalidModelCard, ModelCard


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, code: Path, houses: Tables) -> Path:
    container = Container(tmp_path_factory.mktemp("model"), code)
    container.write(one_shard(houses), target="price", kind="positive")
    return container.run(objective="reg:squarederror", target_transform="log", num_round=10).model


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "model"))


def change_card(folder: Path, **changes: object) -> None:
    path = folder / "model-card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_card_reads_as_it_was_written(model: Path, tmp_path: Path) -> None:
    card = ModelCard.read(model)
    (tmp_path / "again").mkdir()
    card.write(tmp_path / "again")
    again = (tmp_path / "again" / "model-card.json").read_bytes()
    assert again == (model / "model-card.json").read_bytes()
    assert ModelCard.read(tmp_path / "again") == card


def test_another_version_of_xgboost(model: Path) -> None:
    versions = json.loads((model / "model-card.json").read_text())["library_versions"]
    change_card(model, library_versions={**versions, "xgboost": "1.7.6"})
    with pytest.raises(VersionMismatch, match=r"trained with xgboost 1\.7\.6.*install 1\.7"):
        load_model(model)


def test_another_patch_release_loads(model: Path) -> None:
    versions = json.loads((model / "model-card.json").read_text())["library_versions"]
    minor = ".".join(versions["xgboost"].split(".")[:2])
    change_card(model, library_versions={**versions, "xgboost": f"{minor}.99"})
    assert load_model(model).card.rounds["best"] == 10


def test_golden_rows_that_predict_something_else(model: Path) -> None:
    rows = json.loads((model / "model-card.json").read_text())["golden_rows"]
    rows[3]["prediction"] *= 1.01
    change_card(model, golden_rows=rows)
    with pytest.raises(GoldenRowMismatch, match="don't belong together"):
        load_model(model)


def test_a_card_beside_another_model(model: Path, code: Path, houses: Tables) -> None:
    other = Container(model.parent / "other", code)
    other.write(one_shard(houses), target="price", kind="positive")
    settings = {"objective": "reg:squarederror", "target_transform": "log", "num_round": 11}
    shutil.copy(other.run(**settings).model / "model.ubj", model)
    with pytest.raises(GoldenRowMismatch):
        load_model(model)


def test_a_model_that_is_cut_short(model: Path) -> None:
    file = model / "model.ubj"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelUnusable, match="not a whole model"):
        load_model(model)
    file.unlink()
    with pytest.raises(ModelUnusable, match="missing"):
        load_model(model)


def test_cards_that_are_none(model: Path) -> None:
    change_card(model, version=2)
    with pytest.raises(InvalidModelCard, match="version 2"):
        load_model(model)
    change_card(model, version=1, surprise=1)
    with pytest.raises(InvalidModelCard, match="surprise"):
        load_model(model)
    (model / "model-card.json").write_text("{")
    with pytest.raises(InvalidModelCard, match="not a model card"):
        load_model(model)
    (model / "model-card.json").unlink()
    with pytest.raises(InvalidModelCard, match="missing"):
        load_model(model)
