"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """A shell that starts a command in the background has it ignore SIGINT.

    Dagster restores the handler of SIGINT to SIGTERM too when a run ends, and processes that are
    started afterwards would never hear that they are to end.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
