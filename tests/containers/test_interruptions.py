"""A training that is killed or stopped, and goes on as if it hadn't been."""

from pathlib import Path

import pytest

from containers.training_container import Container, Running, Tables, one_shard
from sf_sagemaker.containers.xgboost.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    CorruptCheckpoint,
)

PLAIN = {"objective": "reg:squarederror", "target_transform": "log", "num_round": 200}
RANDOM = {**PLAIN, "subsample": 0.6, "colsample_bytree": 0.5, "seed": 3}
STOPPING = {**PLAIN, "eta": 0.1, "early_stopping_rounds": 15}
# Slow enough to be met in the middle.
SLOW = {"max_depth": 9, "num_parallel_tree": 4}


def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def clear(container: Container) -> None:
    for folder in ("model", "checkpoints"):
        for path in (container.root() / folder).glob("*"):
            path.unlink()


def started(container: Container, settings: dict) -> Running:
    running = container.start(**settings)
    running.wait_for_line("[60/200]")
    return running


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PLAIN, RANDOM, STOPPING], ids=["plain", "random", "stopping"])
def test_killed_and_started_again_it_makes_the_same_model(
    container: Container, houses: Tables, settings: dict
) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    settings = {**settings, **SLOW}
    whole = container.run(**settings)
    assert whole.status == 0, whole.output
    expected = model_files(whole.model)
    clear(container)

    started(container, settings).kill()
    assert model_files(whole.model) == {}
    resumed = container.run(**settings)
    assert resumed.status == 0, resumed.output
    assert "resuming after round" in resumed.output
    assert "[1/200]" not in resumed.output
    assert model_files(resumed.model) == expected


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PLAIN, RANDOM], ids=["plain", "random"])
def test_stopped_it_leaves_a_checkpoint_and_no_model(
    container: Container, houses: Tables, settings: dict
) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    settings = {**settings, **SLOW}
    expected = model_files(container.run(**settings).model)
    clear(container)

    running = started(container, settings)
    running.process.terminate()
    stopped = running.wait(timeout=20)
    assert stopped.status != 0
    assert stopped.failure is not None
    assert stopped.failure.startswith("stopped by SIGTERM after round")
    assert model_files(stopped.model) == {}
    assert list((container.root() / "checkpoints").glob("checkpoint-*"))

    resumed = container.run(**settings)
    assert resumed.failure is None
    assert model_files(resumed.model) == expected


def test_a_broken_checkpoint_is_passed_over(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    settings = {**PLAIN, "num_round": 40}
    expected = model_files(container.run(**settings).model)
    newest, older = sorted((container.root() / "checkpoints").iterdir(), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-100])
    finished = container.run(**settings)
    assert f"passed over {newest.name}: its model is not whole" in finished.output
    assert f"resuming after round {int(older.name[-6:])}" in finished.output
    assert model_files(finished.model) == expected


def test_a_checkpoint_of_other_settings_is_passed_over(
    container: Container, houses: Tables
) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    container.run(**{**PLAIN, "num_round": 20})
    finished = container.run(**{**PLAIN, "num_round": 20, "max_depth": 3})
    assert finished.status == 0
    assert "other data or hyperparameters" in finished.output
    assert "resuming" not in finished.output


def test_checkpoints_keep_the_last_two(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", {"data": "x"})
    assert folder.latest() is None
    for rounds in (5, 10, 15):
        folder.save(Checkpoint(rounds, {"train": {"rmse": [1.0]}}, b"model \n%d" % rounds))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-000010",
        "checkpoint-000015",
    ]
    assert folder.latest() == Checkpoint(15, {"train": {"rmse": [1.0]}}, b"model \n15")
    with pytest.raises(CorruptCheckpoint, match="other data"):
        Checkpoint.decode((tmp_path / "checkpoints/checkpoint-000015").read_bytes(), {"data": "y"})
