"""The local folder as object storage: whole or not at all, and never over what is there."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sf_sagemaker.storage import InvalidKey, KeyExists, KeyMissing, LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "a store")


def test_what_is_created_is_read_listed_and_measured(storage: LocalStorage) -> None:
    for key in ("b/2", "b/10/x", "a", "b/1"):
        storage.create(key, key.encode())
    assert storage.read("b/10/x") == b"b/10/x"
    assert storage.size("b/10/x") == 6
    assert list(storage.list("b")) == ["b/1", "b/10/x", "b/2"]
    assert list(storage.list("nothing")) == []
    assert storage.uri("b/1").startswith("file:///")
    assert storage.uri("b/1").endswith("/a%20store/b/1")


def test_a_key_is_never_overwritten(storage: LocalStorage) -> None:
    storage.create("log/1", b"first")
    with pytest.raises(KeyExists, match="never overwritten"):
        storage.create("log/1", b"second")
    assert storage.read("log/1") == b"first"
    assert [path.name for path in storage.path("log").iterdir()] == ["1"]


def test_one_of_many_creators_wins(storage: LocalStorage) -> None:
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


def test_a_write_that_was_cut_short_is_not_listed(storage: LocalStorage) -> None:
    storage.create("log/1", b"whole")
    storage.path("log/.2.abc.partial").write_bytes(b"ha")
    assert list(storage.list("log")) == ["log/1"]


def test_what_is_written_in_pieces_is_read_from_anywhere(storage: LocalStorage) -> None:
    with storage.write("a/large") as file:
        for number in range(1000):
            file.write(f"{number:03}".encode())
        assert list(storage.list("a")) == []
    with storage.open("a/large") as file:
        file.seek(-6, 2)
        assert file.read() == b"998999"
        file.seek(3)
        assert file.read(3) == b"001"


def test_a_write_that_fails_or_comes_late_leaves_nothing(storage: LocalStorage) -> None:
    def write_half() -> None:
        with storage.write("a/key") as file:
            file.write(b"ha")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_half()
    assert list(storage.path("a").iterdir()) == []

    def write_late() -> None:
        with storage.write("a/key") as file:
            storage.create("a/key", b"first")
            file.write(b"second")

    with pytest.raises(KeyExists, match="never overwritten"):
        write_late()
    assert storage.read("a/key") == b"first"
    assert [path.name for path in storage.path("a").iterdir()] == ["key"]


def test_missing_keys_say_so(storage: LocalStorage) -> None:
    for look in (storage.read, storage.size, storage.open):
        with pytest.raises(KeyMissing, match="nowhere"):
            look("nowhere")


def test_deleting_takes_a_folder_or_a_key_and_nothing_else(storage: LocalStorage) -> None:
    for key in ("a/1", "a/2/3", "ab", "b"):
        storage.create(key, b"")
    storage.delete("a")
    storage.delete("b")
    storage.delete("never")
    assert list(storage.list("a")) == []
    assert [path.name for path in storage.root.iterdir()] == ["ab"]


@pytest.mark.parametrize("key", ["../outside", "a/../../b", "/etc/passwd", "", "."])
def test_keys_stay_under_the_root(storage: LocalStorage, key: str) -> None:
    for use in (storage.read, storage.delete, storage.uri, storage.size, storage.open):
        with pytest.raises(InvalidKey):
            use(key)
    with pytest.raises(InvalidKey):
        storage.create(key, b"")
    with pytest.raises(InvalidKey):
        list(storage.list(key))


def test_listing_and_deleting_bear_deletion_by_others(storage: LocalStorage) -> None:
    for folder in range(40):
        for key in range(10):
            storage.create(f"shared/{folder}/{key}/x", b"")
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        for folder in range(40):
            storage.delete(f"shared/{folder}")
            list(storage.list("shared"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(storage.list("shared")) == []
