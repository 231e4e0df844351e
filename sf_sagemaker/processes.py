"""What processes that this project leaves running get of the environment they are started in."""

import os
import re

_INHERITED = re.compile(
    r"PATH|HOME|USER|SHELL|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|VIRTUAL_ENV"
    r"|(OMP|OPENBLAS|MKL|NUMEXPR|KMP|VECLIB)_[A-Z_]*"
)


def inherited_environment() -> dict[str, str]:
    """The variables that say where things are and how many threads to use.

    All else, credentials above all, stays out.
    """
    return {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
