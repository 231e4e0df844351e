"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    seconds: float = 30,
    *,
    pause: float = 0.02,
    told: Callable[[], object] = lambda: "waited in vain",
) -> None:
    """Returns once a condition holds, which is looked at every `pause` seconds.

    An AssertionError after so many seconds, with what is `told` then.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} seconds: {told()}"
        time.sleep(pause)
