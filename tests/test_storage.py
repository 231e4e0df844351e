"""Object storage, whatever it is: whole or not at all, and never over what is there."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.storage import InvalidKey, KeyExists, KeyMissing, LocalStorage, Storage
from standins.s3 import new_bucket, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "a store")


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest) -> Storage:
    if request.param == "s3":
        return S3Storage(Aws(), new_bucket(request.getfixturevalue("s3")), "a/prefix")
    return request.getfixturevalue("folder")


def test_what_is_created_is_read_listed_and_measured(storage: Storage) -> None:
    for key in ("b/2", "b/10/x", "a", "b/1", "bc/1"):
        storage.create(key, key.encode())
    assert storage.read("b/10/x") == b"b/10/x"
    assert storage.size("b/10/x") == 6
    assert list(storage.list("b")) == ["b/1", "b/10/x", "b/2"]
    assert list(storage.list("nothing")) == []


def test_a_key_is_never_overwritten(storage: Storage) -> None:
    storage.create("log/1", b"first")
    with pytest.raises(KeyExists, match="never overwritten"):
        storage.create("log/1", b"second")
    assert storage.read("log/1") == b"first"
    assert list(storage.list("log")) == ["log/1"]


def test_one_of_many_creators_wins(storage: Storage) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            storage.create("claim", str(number).encode())
        except KeyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert storage.read("claim") == str(won.index(True)).encode()


def test_what_is_written_in_pieces_is_read_from_anywhere(storage: Storage) -> None:
    with storage.write("a/large") as file:
        for number in range(1000):
            file.write(f"{number:03}".encode())
        assert list(storage.list("a")) == []
    with storage.open("a/large") as file:
        file.seek(-6, 2)
        assert file.read() == b"998999"
        file.seek(3)
        assert file.read(3) == b"001"


def test_missing_keys_say_so(storage: Storage) -> None:
    for look in (storage.read, storage.size, storage.open):
        with pytest.raises(KeyMissing, match="nowhere"):
            look("nowhere")


def test_deleting_takes_a_folder_or_a_key_and_nothing_else(storage: Storage) -> None:
    for key in ("a/1", "a/2/3", "ab", "b"):
        storage.create(key, b"")
    storage.delete("a")
    storage.delete("b")
    storage.delete("never")
    assert list(storage.list("a")) == []
    assert storage.read("ab") == b""
    with pytest.raises(KeyMissing):
        storage.read("b")


@pytest.mark.parametrize("key", ["../outside", "a/../../b", "/etc/passwd", "", "."])
def test_keys_stay_under_the_root_or_prefix(storage: Storage, key: str) -> None:
    for use in (storage.read, storage.delete, storage.uri, storage.size, storage.open):
        with pytest.raises(InvalidKey):
            use(key)
    with pytest.raises(InvalidKey):
        storage.create(key, b"")
    with pytest.raises(InvalidKey):
        list(storage.list(key))


def test_a_key_in_a_folder_has_the_address_of_its_file(folder: LocalStorage) -> None:
    assert folder.uri("b/1").startswith("file:///")
    assert folder.uri("b/1").endswith("/a%20store/b/1")


def test_what_is_refused_or_deleted_leaves_no_file_and_no_folder(folder: LocalStorage) -> None:
    folder.create("log/1", b"first")
    with pytest.raises(KeyExists):
        folder.create("log/1", b"second")
    assert [path.name for path in folder.path("log").iterdir()] == ["1"]
    folder.create("a/2/3", b"")
    folder.delete("a")
    assert [path.name for path in folder.root.iterdir()] == ["log"]


def test_a_write_that_was_cut_short_is_not_listed(folder: LocalStorage) -> None:
    folder.create("log/1", b"whole")
    folder.path("log/.2.abc.partial").write_bytes(b"ha")
    assert list(folder.list("log")) == ["log/1"]


def test_a_write_that_fails_or_comes_late_leaves_nothing(folder: LocalStorage) -> None:
    def write_half() -> None:
        with folder.write("a/key") as file:
            file.write(b"ha")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_half()
    assert list(folder.path("a").iterdir()) == []

    def write_late() -> None:
        with folder.write("a/key") as file:
            folder.create("a/key", b"first")
            file.write(b"second")

    with pytest.raises(KeyExists, match="never overwritten"):
        write_late()
    assert folder.read("a/key") == b"first"
    assert [path.name for path in folder.path("a").iterdir()] == ["key"]


def test_listing_and_deleting_bear_deletion_by_others(folder: LocalStorage) -> None:
    for part in range(40):
        for key in range(10):
            folder.create(f"shared/{part}/{key}/x", b"")
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        for part in range(40):
            folder.delete(f"shared/{part}")
            list(folder.list("shared"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(folder.list("shared")) == []
