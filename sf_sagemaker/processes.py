"""Processes that this project leaves running: how they are started, what they get of the environment,
how they tell that they live, and how they leave word.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import sf_sagemaker

_INHERITED = re.compile(
    r"PATH|HOME|USER|SHELL|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|VIRTUAL_ENV"
    r"|(OMP|OPENBLAS|MKL|NUMEXPR|KMP|VECLIB)_[A-Z_]*"
)


def inherited_environment() -> dict[str, str]:
    """The variables that say where things are and how many threads to use.

    All else, credentials above all, stays out.
    """
    return {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}


def start_supervisor(module: str, folder: Path, lock: int, log: Path) -> int:
    """Runs `python -m module folder lock` in a session of its own, printing to `log`.

    The module is to `leave_caller`; the exit status, 0 where it lives on, comes as soon as it has.
    What it starts and hands the descriptor `lock` on to holds that lock.
    """
    with log.open("ab") as output:
        return subprocess.run(
            [sys.executable, "-m", module, str(folder), str(lock)],
            cwd=Path(sf_sagemaker.__path__[0]).parent,
            env=inherited_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
        ).returncode


def leave_caller() -> Callable[[], bool]:
    """Goes on in a process that the caller doesn't wait for; the one before ends with status 0.

    Tells whether this process was asked to end (SIGTERM).
    """
    if os.fork():
        os._exit(0)
    interrupted = False

    def interrupt(signum: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True

    signal.signal(signal.SIGTERM, interrupt)
    return lambda: interrupted


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock of that file. Raises FileNotFoundError."""
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def replace_text(target: Path, text: str) -> None:
    """Writes a file aside and puts it in place: readers see what was before, or all of it."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with aside.open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
