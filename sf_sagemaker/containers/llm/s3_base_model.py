"""Base models in S3: a prefix that holds a model's files, or one gzipped tar of them."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.llm.base_model_name import (
    S3_PREFIX,
    BaseModelMissing,
    BaseModelName,
)

_SHOWN = 10


@dataclass(frozen=True)
class S3Object:
    """`path` is the object's name below the model's prefix."""

    key: str
    path: str
    size: int
    etag: str


@dataclass(frozen=True)
class S3BaseModel:
    """The objects of a base model."""

    name: BaseModelName
    bucket: str
    objects: tuple[S3Object, ...]

    @property
    def identity(self) -> str:
        """Hex digest that changes when an object's content, or its name in the model, does."""
        listed = [[one.path, one.size, one.etag] for one in self.objects]
        return hashlib.sha256(json.dumps(sorted(listed)).encode()).hexdigest()


def list_base_model(client: Any, name: BaseModelName) -> S3BaseModel:
    """The objects of the model with that S3 address, as an S3 client of boto3 lists them.

    Raises BaseModelMissing where they are no model in safetensors, and what botocore raises.
    """
    bucket, _, key = name.name.removeprefix(S3_PREFIX).partition("/")
    prefix = key if name.is_archive else f"{key}/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = tuple(
        S3Object(entry["Key"], entry["Key"].removeprefix(prefix), entry["Size"], entry["ETag"])
        for page in pages
        for entry in page.get("Contents", ())
        if (entry["Key"] == key if name.is_archive else not entry["Key"].endswith("/"))
    )
    if not objects:
        raise BaseModelMissing(
            f"base_model {name.text!r}: there is nothing. Expected a prefix with config.json, "
            "tokenizer.json and *.safetensors, or a model.tar.gz of them"
        )
    paths = sorted(one.path for one in objects)
    weights = [path for path in paths if path.endswith(".safetensors") and "/" not in path]
    if not name.is_archive and ("config.json" not in paths or not weights):
        found = ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")
        raise BaseModelMissing(
            f"base_model {name.text!r} has {found}: expected config.json, tokenizer.json and "
            "*.safetensors at that prefix. Weights in .bin or .pth files are not read"
        )
    return S3BaseModel(name, bucket, objects)


def fetch_base_model(client: Any, model: S3BaseModel, folder: Path) -> None:
    """Downloads the model's files into a new folder; an archive is unpacked there."""
    folder.mkdir()
    for one in model.objects:
        path = folder / (one.path or Path(one.key).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(model.bucket, one.key, str(path))
        if path.stat().st_size != one.size:
            raise BaseModelMissing(
                f"s3://{model.bucket}/{one.key} changed while it was fetched: try again"
            )
        if model.name.is_archive:
            unpack(path, folder)
            path.unlink()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a gzipped tar into a folder, and nowhere else. Raises BaseModelMissing."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BaseModelMissing(f"{archive.name} can't be unpacked: {error}") from error


def model_folder(folder: Path, name: str) -> Path:
    """The one folder, in or below `folder`, with a model's configuration and its weights."""
    found: Sequence[Path] = [
        path.parent
        for path in sorted(folder.rglob("config.json"))
        if any(path.parent.glob("*.safetensors"))
    ]
    if folder in found:
        return folder
    if len(found) != 1:
        there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))[:_SHOWN]
        raise BaseModelMissing(
            f"base_model {name!r}: expected one folder with config.json and *.safetensors, and there "
            f"are {len(found)} among {', '.join(there) or 'nothing'}"
        )
    return found[0]
