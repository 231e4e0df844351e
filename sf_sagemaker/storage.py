"""Object storage: keys under a root, written whole or not at all.

The role that a local folder plays on a laptop and S3 in production. Keys are relative, with
forward slashes. A key that was written is never seen half-written, and `create` never overwrites:
manifests, job claims and promotion logs rest on that.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from sf_sagemaker.errors import SfSagemakerError


class KeyExists(SfSagemakerError):
    """A create-only key that is already there."""


class KeyMissing(SfSagemakerError):
    """A key that is not there."""


class InvalidKey(SfSagemakerError):
    """A key that leaves its root."""


class Storage(Protocol):
    """Where datasets, models and logs lie."""

    def uri(self, key: str) -> str:
        """The address of a key, as people and other programs use it."""
        ...

    def read(self, key: str) -> bytes:
        """The bytes of a key. Raises KeyMissing."""
        ...

    def create(self, key: str, content: bytes) -> None:
        """Writes a key that must not exist yet, atomically. Raises KeyExists."""
        ...

    def open(self, key: str) -> BinaryIO:
        """A key to read in parts: seekable, and to be closed. Raises KeyMissing."""
        ...

    def write(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A file to write in order, which becomes the key when the block ends without an error.

        It holds little of it in memory, whatever the size. Raises KeyExists as `create` does, at
        the end of the block at the latest; then, and after an error, nothing of it is left.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """The keys under a prefix (a folder), sorted; none where there is no such folder."""
        ...

    def size(self, key: str) -> int:
        """The size of a key in bytes. Raises KeyMissing."""
        ...

    def delete(self, prefix: str) -> None:
        """Removes what lies under a prefix; nothing there is not an error."""
        ...


def checked_key(key: str) -> PurePosixPath:
    """The key as a path under the root. Raises InvalidKey for one that leaves it."""
    pure = PurePosixPath(key)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise InvalidKey(f"storage key {key!r} must be relative, without '..'")
    return pure


class LocalStorage:
    """A folder on this machine as object storage."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()

    def path(self, key: str) -> Path:
        """The file or folder of a key. Raises InvalidKey for one that leaves the root."""
        return self.root / checked_key(key)

    def uri(self, key: str) -> str:
        return self.path(key).as_uri()

    def read(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise KeyMissing(f"{self.path(key)} does not exist") from None

    def create(self, key: str, content: bytes) -> None:
        with self.write(key) as file:
            file.write(content)

    def open(self, key: str) -> BinaryIO:
        try:
            return self.path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise KeyMissing(f"{self.path(key)} does not exist") from None

    @contextmanager
    def write(self, key: str) -> Iterator[BinaryIO]:
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with aside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            try:
                # A hard link fails where the name is taken; a rename would replace it.
                os.link(aside, target)
            except FileExistsError:
                raise KeyExists(f"{target} exists already and is never overwritten") from None
        finally:
            aside.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.path(prefix)
        # os.walk passes over folders that another process removes meanwhile; Path.rglob fails.
        yield from sorted(
            (Path(parent) / name).relative_to(self.root).as_posix()
            for parent, _, names in os.walk(folder)
            for name in names
            if not name.endswith(".partial")
        )

    def size(self, key: str) -> int:
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            raise KeyMissing(f"{self.path(key)} does not exist") from None

    def delete(self, prefix: str) -> None:
        path = self.path(prefix)
        if path.is_file():
            path.unlink(missing_ok=True)
        while path.is_dir():
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                continue  # another process is removing the same
