"""Measuring a piece of work in a process of its own: CPU seconds, wall seconds, peak memory.

Figures are compared only within one run, side by side: machines differ and are noisy.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """What a command and all its children took; `peak_mb` is of the largest of their processes."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


def measured(arguments: Sequence[str], **environment: str) -> Cost:
    """Runs Python with arguments and waits for it, and for what it leaves running in its session.

    Raises CalledProcessError where it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as mark:
        peak = _Peak(mark)
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            env={**os.environ, **environment, "TMPDIR": mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = process.communicate()
        wall = time.monotonic() - started
        peak.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, output)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Cost(cpu + peak.detached_cpu, wall, peak.megabytes)


class _Peak:
    """Watches processes, those that detached themselves too.

    They are known by their TMPDIR, which a training job inherits: others on this machine don't
    count.
    """

    def __init__(self, mark: str) -> None:
        self.megabytes = 0.0
        self._mark = f"TMPDIR={mark}".encode()
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def detached_cpu(self) -> float:
        """CPU seconds of processes that left this one's tree: a local job's supervisor and hosts."""
        return sum(self._cpu.values())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        ticks = os.sysconf("SC_CLK_TCK")
        while not self._stop.wait(_SAMPLE_SECONDS):
            for pid in _processes():
                try:
                    if self._mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        continue
                    status = Path(f"/proc/{pid}/status").read_text()
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                for line in status.splitlines():
                    if line.startswith("VmHWM"):
                        self.megabytes = max(self.megabytes, int(line.split()[1]) / 1024)
                if _is_detached(pid):
                    self._cpu[pid] = (int(fields[11]) + int(fields[12])) / ticks


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_detached(pid: int) -> bool:
    """Whether a process is a training job's, whose CPU the waiting parent never gets to count."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"local_supervisor" in command or b"train_xgboost.py" in command
