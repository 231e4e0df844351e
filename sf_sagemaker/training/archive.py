"""Archives of code and models: gzipped tars, the same bytes for the same files, unpacked with care."""

import gzip
import os
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, BinaryIO

from sf_sagemaker.training.errors import ArtifactCorrupt

_CHUNK = 2**20  # bytes


def write_archive(files: Mapping[str, Path], raw: IO[bytes]) -> None:
    """Writes files, by their path in the archive."""
    # The fastest level: weights hardly compress, and their size is what takes the time.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            with files[name].open("rb") as content:
                entry = tarfile.TarInfo(name)
                entry.size = os.fstat(content.fileno()).st_size
                entry.mode = 0o644
                archive.addfile(entry, content)


def unpack_archive(raw: BinaryIO, target: Path, source: str) -> None:
    """Unpacks an archive as the folder `target`, whole or not at all.

    Raises ArtifactCorrupt, naming `source`.
    """
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with gzip.open(raw) as content:
            with tarfile.open(fileobj=content, mode="r:") as archive:
                archive.extractall(aside, filter="data")
            # tarfile stops before the end, and so before gzip's checksum of it all.
            while content.read(_CHUNK):
                pass
        aside.mkdir(parents=True, exist_ok=True)  # of an archive without files
        aside.rename(target)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArtifactCorrupt(
            f"{source} can't be unpacked ({error}); delete it and materialize the model "
            "again to train anew"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
