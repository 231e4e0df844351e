"""Checkpoints of a fine-tuning: the adapter, the optimizer's moments, and the losses so far.

The platform keeps the folder in step with object storage, and a restarted job finds it again. A
checkpoint is one safetensors file; its metadata carries the step, the losses, a digest, and which
training it belongs to.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sf_sagemaker.containers.errors import ContainerError

_NAME = re.compile(r"^checkpoint-(\d{6})\.safetensors$")
_KEPT = 2

History = dict[str, dict[str, list[float]]]


class CorruptCheckpoint(ContainerError):
    """A checkpoint that is damaged, or of another training."""


@dataclass(frozen=True)
class Checkpoint:
    """A training after so many steps. `history` is {split: {"step": […], "loss": […]}}."""

    step: int
    history: History
    tensors: Mapping[str, torch.Tensor]


class CheckpointFolder:
    """The checkpoints of a training; the last two are kept. `identity` says which training."""

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._folder = folder
        self._identity = json.dumps(identity, sort_keys=True)
        self.rejected: list[str] = []

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; `rejected` says which ones were not, and why."""
        for path in reversed(self._files()):
            try:
                return self._read(path)
            except CorruptCheckpoint as error:
                self.rejected.append(f"{path.name}: {error}")
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint aside, then renames it, and removes what is older than two."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"checkpoint-{checkpoint.step:06d}.safetensors"
        aside = path.with_suffix(".partial")
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file(
            tensors,
            aside,
            {
                "step": str(checkpoint.step),
                "history": json.dumps(checkpoint.history),
                "identity": self._identity,
                "sha256": _digest(tensors),
            },
        )
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        for old in self._files()[:-_KEPT]:
            old.unlink()

    def _read(self, path: Path) -> Checkpoint:
        try:
            with safe_open(path, "pt") as file:
                head = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CorruptCheckpoint(f"it can't be read ({error})") from error
        if head.get("identity") != self._identity:
            raise CorruptCheckpoint("it is of a training with other data or hyperparameters")
        if head["sha256"] != _digest(tensors):
            raise CorruptCheckpoint("its tensors are not what was written")
        return Checkpoint(int(head["step"]), json.loads(head["history"]), tensors)

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if _NAME.match(path.name))


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()
