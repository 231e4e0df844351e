"""A program in S3: one archive for each content, uploaded once."""

from contextlib import suppress

from sf_sagemaker.storage import KeyExists, KeyMissing, Storage
from sf_sagemaker.training.archive import write_archive
from sf_sagemaker.training.job import Program

ARCHIVE = "code.tar.gz"


def upload_code(storage: Storage, program: Program) -> str:
    """The key of the folder that holds the program's archive, which is there afterwards."""
    folder = f"code/{program.digest}"
    key = f"{folder}/{ARCHIVE}"
    try:
        storage.size(key)
    except KeyMissing:
        # Another run may upload the same at the same time.
        with suppress(KeyExists), storage.write(key) as file:
            write_archive(program.files, file)
    return folder
