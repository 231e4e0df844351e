"""Checkpoints of a training: the model so far and its evaluation history, in one file.

The platform keeps the folder in step with object storage, and a restarted job finds it again. A
file is a line of JSON followed by the model in UBJSON; the line carries the model's digest, so that
a file which was cut short is known as such.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sf_sagemaker.containers.errors import ContainerError

_NAME = re.compile(r"^checkpoint-(\d{6})$")
_KEPT = 2

History = dict[str, dict[str, list[float]]]


class CorruptCheckpoint(ContainerError):
    """A checkpoint that is cut short, or of another training."""


@dataclass(frozen=True)
class Checkpoint:
    """A model after so many rounds. `history` is {split: {metric: value by round}}."""

    rounds: int
    history: History
    model: bytes

    def encode(self, identity: Mapping[str, object]) -> bytes:
        """The bytes that `decode` reads; `identity` says which training they belong to."""
        head = {
            "rounds": self.rounds,
            "history": self.history,
            "sha256": hashlib.sha256(self.model).hexdigest(),
            "identity": identity,
        }
        return json.dumps(head).encode() + b"\n" + self.model

    @classmethod
    def decode(cls, content: bytes, identity: Mapping[str, object]) -> "Checkpoint":
        """The checkpoint in `content`. Raises CorruptCheckpoint."""
        line, _, model = content.partition(b"\n")
        try:
            head = json.loads(line)
        except ValueError:
            raise CorruptCheckpoint("it has no readable head") from None
        if head["sha256"] != hashlib.sha256(model).hexdigest():
            raise CorruptCheckpoint("its model is not whole")
        if head["identity"] != json.loads(json.dumps(identity)):
            raise CorruptCheckpoint("it is of a training with other data or hyperparameters")
        return cls(head["rounds"], head["history"], model)


class CheckpointFolder:
    """The checkpoints of a training, newest last; the last two are kept."""

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._folder = folder
        self._identity = identity
        self.rejected: list[str] = []

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; `rejected` says which ones were not, and why."""
        for path in reversed(self._files()):
            try:
                return Checkpoint.decode(path.read_bytes(), self._identity)
            except CorruptCheckpoint as error:
                self.rejected.append(f"{path.name}: {error}")
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint aside, then renames it, and removes what is older than two."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"checkpoint-{checkpoint.rounds:06d}"
        aside = path.with_suffix(".partial")
        with aside.open("wb") as file:
            file.write(checkpoint.encode(self._identity))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        for old in self._files()[:-_KEPT]:
            old.unlink()

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if _NAME.match(path.name))
