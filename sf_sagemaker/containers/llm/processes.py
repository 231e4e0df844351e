"""The processes of a training on one host: one for each GPU, which add up what each of them computed.

The script that the platform starts looks after the others: it passes a stop on, and tells of the first
that failed. Each process trains on a part of every batch.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch

from sf_sagemaker.containers.environment import FAILURE_FILE, Environment, StopSignal
from sf_sagemaker.containers.errors import ContainerError

_PLACE = "SF_SAGEMAKER_PROCESS"
_POLL_SECONDS = 0.1
_LAST_WORDS_SECONDS = 15.0  # for the fellows of a process that failed
_STOPPING_SECONDS = 100.0  # of the 120 that a platform gives
_PATIENCE = timedelta(minutes=60)  # while one process looks at validation rows, or loads its base

_Item = TypeVar("_Item")


class ProcessFailed(ContainerError):
    """A process of a training that ended without success."""


@dataclass(frozen=True)
class Group:
    """The processes of a training, seen from one of them. `rank` counts from 0, which leads."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def part(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This process's share of items that all of them have."""
        return items[self.rank :: self.size]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process: the same answer in all of them."""
        if self.size == 1:
            return flag
        return self.total(torch.tensor([float(flag)])).item() > 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in each of them."""
        if self.size == 1:
            return values
        summed = values.to(_device())
        torch.distributed.all_reduce(summed)
        return summed.to(values.device)

    def add_up_gradients(
        self, parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor
    ) -> torch.Tensor:
        """Puts the sum of all processes' gradients into each of them, and gives that of the losses.

        A process that had no row to compute has no gradients, and adds nothing.
        """
        if self.size == 1:
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # One message for all of it: an adapter has many small matrices.
        flat = torch.cat([*(g.flatten() for g in gradients), loss.detach().reshape(1)])
        *summed, total = self.total(flat).split([*(g.numel() for g in gradients), 1])
        for parameter, values in zip(parameters, summed, strict=True):
            parameter.grad = values.view_as(parameter).clone()
        return total.reshape(())

    def leave(self) -> None:
        """Ends the group, in all processes at the same point: with NCCL they wait for one another."""
        if self.size > 1:
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class _Place:
    """What a process is told of its group: `folder` is where they meet."""

    rank: int
    size: int
    folder: str


def is_member() -> bool:
    """Whether this process is one of several, which another looks after."""
    return _PLACE in os.environ


def count_processes(environment: Environment) -> int:
    """How many processes train on this host: one for each GPU, and at least one."""
    found = environment.num_gpus
    return max(1, torch.cuda.device_count() if found is None else found)


def join_group() -> Group:
    """The group that this process belongs to; alone, it is one of its own."""
    if not is_member():
        return Group()
    place = _Place(**json.loads(os.environ[_PLACE]))
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(place.rank)
    torch.distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        init_method=f"file://{place.folder}/meeting",
        rank=place.rank,
        world_size=place.size,
        timeout=_PATIENCE,
    )
    return Group(place.rank, place.size)


def run_processes(count: int, stop: StopSignal) -> None:
    """Runs this script again in `count` processes, until all of them have ended well.

    Raises ProcessFailed with the words of the first that didn't; the others are gone then, too.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        processes = [_start(_Place(rank, count, scratch), folder) for rank in range(count)]
        try:
            _wait(processes, stop, folder)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _start(place: _Place, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *sys.argv],
        env={
            # A container's host name may have no address; these processes share a host.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            **os.environ,
            _PLACE: json.dumps(asdict(place)),
            FAILURE_FILE: str(_failure(folder, place.rank)),
        },
        stdin=subprocess.DEVNULL,
        # All say the same, and one of them is enough; stack traces go to stderr.
        stdout=None if place.rank == 0 else subprocess.DEVNULL,
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]], stop: StopSignal, folder: Path) -> None:
    deadline: float | None = None
    told = False
    while True:
        codes = [process.poll() for process in processes]
        if stop.requested and not told:
            told = True
            for process in processes:
                process.terminate()
        if all(code == 0 for code in codes):
            return
        if any(codes) and deadline is None:
            deadline = time.monotonic() + (_STOPPING_SECONDS if told else _LAST_WORDS_SECONDS)
        if deadline is not None and (None not in codes or time.monotonic() > deadline):
            raise ProcessFailed(_reason(dict(enumerate(codes)), stop, folder))
        time.sleep(_POLL_SECONDS)


def _reason(codes: Mapping[int, int | None], stop: StopSignal, folder: Path) -> str:
    """What the process that failed first said; what others say is mostly that they miss it.

    One that was killed says nothing, and is the reason whatever others say.
    """
    written = [path for rank in codes if (path := _failure(folder, rank)).exists()]
    killed = [rank for rank, code in codes.items() if code == -signal.SIGKILL]
    if written and (stop.requested or not killed):
        return min(written, key=lambda path: path.stat().st_mtime_ns).read_text()
    if stop.requested:
        return "stopped by SIGTERM before the training was done: no model was written"
    failed = killed or [rank for rank, code in codes.items() if code]
    rank, code = failed[0], codes[failed[0]] or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return (
        f"process {rank + 1} of {len(codes)} {how} and gave no reason: where the log has none either, "
        "the instance may have too little memory for its processes"
    )


def _failure(folder: Path, rank: int) -> Path:
    return folder / f"failure-{rank}"


def _device() -> torch.device:
    """Where this process's messages have to be."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
