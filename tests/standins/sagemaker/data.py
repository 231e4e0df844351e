"""What goes into a job's folders from S3 and comes out of them: channels, checkpoints, results."""

import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from standins.sagemaker.aws_state import S3Location


class ChannelEmpty(Exception):
    """A channel whose data went away after its job was created."""


def fetch_channel(s3: Any, channel: Mapping[str, Any], cache: Path) -> list[tuple[str, Path]]:
    """Downloads a channel's objects: their paths in the channel, in the order of their keys."""
    source = channel["DataSource"]["S3DataSource"]
    location = S3Location.parse(source["S3Uri"])
    if source["S3DataType"] == "ManifestFile":
        objects = _of_manifest(s3, location)
    else:
        objects = [
            (S3Location(location.bucket, key), _path_in_channel(location.key, key))
            for key in _keys(s3, location)
        ]
    if not objects:
        raise ChannelEmpty(f"No S3 objects found under S3 URL {source['S3Uri']}")
    files = []
    for number, (item, path) in enumerate(sorted(objects, key=lambda pair: pair[0].key)):
        file = cache / channel["ChannelName"] / str(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        _download(s3, item, file)
        files.append((path, file))
    return files


def deal(
    files: Sequence[tuple[str, Path]], channel: Mapping[str, Any], host: int, hosts: int
) -> Sequence[tuple[str, Path]]:
    """The files that one host gets: all, or each n-th of the sorted keys where they are sharded."""
    source = channel["DataSource"]["S3DataSource"]
    sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
    return files[host::hosts] if sharded else files


def lay_out_channel(files: Iterable[tuple[str, Path]], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path, file in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)


def fetch_checkpoints(s3: Any, uri: str, folder: Path) -> None:
    """Puts everything under an S3 prefix into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    location = S3Location.parse(uri.rstrip("/") + "/")
    for key in _keys(s3, location):
        target = folder / key.removeprefix(location.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(s3, S3Location(location.bucket, key), target)


class CheckpointSync:
    """Uploads a folder's files as they change; what is deleted here stays in S3."""

    def __init__(self, s3: Any, uri: str, folder: Path) -> None:
        self._s3 = s3
        self._prefix = S3Location.parse(uri)
        self._folder = folder
        self._uploaded = {path: _version(path) for path in _files(folder)}

    def upload(self) -> None:
        for path in _files(self._folder):
            try:
                version = _version(path)
                if self._uploaded.get(path) == version:
                    continue
                target = self._prefix.under(path.relative_to(self._folder).as_posix())
                self._s3.upload_file(str(path), target.bucket, target.key)
            except FileNotFoundError:
                continue  # the script renames and deletes while we look
            self._uploaded[path] = version


def upload_folders(
    s3: Any,
    folders: Sequence[Path],
    target: S3Location,
    name: str,
    *,
    compress: bool,
    scratch: Path,
) -> S3Location:
    """Uploads the folders' files as one NAME.tar.gz, or as they are under NAME/."""
    files: dict[str, Path] = {}
    for folder in folders:
        for path in _files(folder):
            files.setdefault(path.relative_to(folder).as_posix(), path)
    if not compress:
        for path, file in files.items():
            item = target.under(name, path)
            s3.upload_file(str(file), item.bucket, item.key)
        return S3Location(target.bucket, target.under(name).key + "/")
    archive = scratch / f"{name}.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted(files):
            tar.add(files[path], path)
    result = target.under(archive.name)
    s3.upload_file(str(archive), result.bucket, result.key)
    archive.unlink()
    return result


def _download(s3: Any, item: S3Location, target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(s3.get_object(Bucket=item.bucket, Key=item.key)["Body"], file)


def has_files(folders: Iterable[Path]) -> bool:
    return any(True for folder in folders for _ in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _keys(s3: Any, prefix: S3Location) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return sorted(key for key in keys if not key.endswith("/"))


def _path_in_channel(prefix: str, key: str) -> str:
    """What follows the prefix where it names a folder, with or without its last slash."""
    if prefix and key.startswith(prefix.rstrip("/") + "/"):
        return key.removeprefix(prefix.rstrip("/") + "/")
    return key[prefix.rfind("/") + 1 :]


def _of_manifest(s3: Any, manifest: S3Location) -> list[tuple[S3Location, str]]:
    """Objects of [{"prefix": "s3://…/"}, "relative/path", …], S3DataSource in the API reference."""
    content = s3.get_object(Bucket=manifest.bucket, Key=manifest.key)["Body"].read()
    first, *paths = json.loads(content)
    prefix = S3Location.parse(first["prefix"])
    return [(S3Location(prefix.bucket, prefix.key + path), path) for path in paths]
