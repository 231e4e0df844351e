"""What runs inside a training container.

This package travels into the container on its own, so it imports nothing of the rest of
sf_sagemaker, and only libraries that the container's image has.
"""

from importlib.util import find_spec
from pathlib import Path

from sf_sagemaker.containers.errors import ContainerError


class UnknownProgram(ContainerError):
    """A kind of training program that this package doesn't have."""


def program_files(kind: str) -> tuple[str, dict[str, Path]]:
    """The entry point of a kind of training, and its files by their path in the code folder.

    A kind is a package in here with an `entry.py`, which becomes `train_<kind>.py` at the root of
    the code folder: Python puts the script's folder first on its path, so absolute imports of this
    package work there as they do here. The module dagster_pipes goes along where it is installed;
    the images don't have it. Raises UnknownProgram.
    """
    containers = Path(__file__).parent
    kinds = sorted(path.parent.name for path in containers.glob("*/entry.py"))
    if kind not in kinds:
        raise UnknownProgram(f"no training program {kind!r}: there is {', '.join(kinds)}")
    entry_point = f"train_{kind}.py"
    entry = containers / kind / "entry.py"
    package = containers.parent
    sources = [package / "__init__.py", *containers.glob("*.py"), *entry.parent.glob("*.py")]
    files = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path
        for path in sorted(sources)
        if path != entry
    }
    pipes = find_spec("dagster_pipes")
    if pipes is not None and pipes.origin is not None:
        for path in sorted(Path(pipes.origin).parent.glob("*.py")):
            files[f"dagster_pipes/{path.name}"] = path
    return entry_point, {entry_point: entry, **files}
