import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.job import Channel, Limits, Program, TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from standins.sagemaker.fixtures import aws, service, shared_service
from waiting import wait_until

__all__ = ["aws", "service", "shared_service"]

# Writes a beat every 20 ms to $BEATS until the file $GO exists, then a model.
BEATING = """
import os, pathlib, time
beats, go = pathlib.Path(os.environ["BEATS"]), pathlib.Path(os.environ["GO"])
print("first line")
while not go.exists():
    with beats.open("a") as file:
        file.write(".")
    time.sleep(0.02)
print("last line")
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model.txt").write_text("a model")
"""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "storage")
    for shard in range(5):
        storage.create(f"data/train/shard={shard:03}/part.txt", f"rows of {shard}".encode())
    storage.create("data/schema.json", b"{}")
    return storage


@pytest.fixture
def platform(storage: LocalStorage) -> LocalTrainingPlatform:
    return LocalTrainingPlatform(storage, grace_seconds=5)


@pytest.fixture
def new_job(tmp_path: Path) -> Callable[..., TrainingJob]:
    """Makes a job that runs a script."""

    def new(
        script: str = "",
        *,
        hosts: int = 1,
        channels: tuple[Channel, ...] = (),
        max_runtime: timedelta = timedelta(minutes=1),
        **hyperparameters: str,
    ) -> TrainingJob:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(script))
        return TrainingJob(
            model="house_prices",
            partition="2015-04-27",
            program=Program("train.py", {"train.py": path}),
            image="test",
            dataset_fingerprint="abc",
            channels=channels,
            hyperparameters=hyperparameters,
            seed=7,
            instance_count=hosts,
            limits=Limits(max_runtime=max_runtime),
        )

    return new


class Beating:
    """A script that runs until it is released, and the signs of life that it gives."""

    script = BEATING

    def __init__(self, folder: Path) -> None:
        self.beats = folder / "beats"
        self.go = folder / "go"
        self.environment = {"BEATS": str(self.beats), "GO": str(self.go)}

    def wait_for_start(self) -> None:
        wait_until(self.beats.exists)

    def release(self) -> None:
        self.go.touch()

    def silent(self) -> bool:
        """Whether nothing gives signs of life any more."""
        before = self.beats.stat().st_size
        time.sleep(0.3)
        return self.beats.stat().st_size == before


@pytest.fixture
def beating(tmp_path: Path) -> Iterator[Beating]:
    beating = Beating(tmp_path)
    yield beating
    beating.release()  # whatever a failed test left behind
