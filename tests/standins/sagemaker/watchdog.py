"""A process that cleans up once this one is gone, whatever ended it: jobs' hosts, and a folder."""

import subprocess
import sys
import threading
from pathlib import Path

_PROGRAM = """
import os, shutil, signal, sys
guarded = set()
for line in sys.stdin:
    group = int(line)
    guarded.add(group) if group > 0 else guarded.discard(-group)
for group in guarded:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Watchdog:
    """Told of process groups over a pipe that ends with this process."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _PROGRAM, str(folder)],
            stdin=subprocess.PIPE,
            process_group=0,
            text=True,
            bufsize=1,
        )

    def guard(self, group: int) -> None:
        self._tell(group)

    def release(self, group: int) -> None:
        self._tell(-group)

    def close(self) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    def _tell(self, group: int) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{group}\n")
