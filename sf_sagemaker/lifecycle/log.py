"""A numbered log in object storage: entries are created once, in order, and never overwritten.

Trained models and champions are such logs. Two processes that append at once can't lose one another's
entry: the number is the lock.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.storage import KeyExists, Storage

_DIGITS = 6


class CorruptEntry(SfSagemakerError):
    """A log entry that is not what its writer writes."""


class EntryTaken(SfSagemakerError):
    """An entry of that number that another process has written meanwhile."""


@dataclass(frozen=True)
class Entry:
    """An entry of a log: its number, from 1 on, its storage key and its JSON content."""

    number: int
    key: str
    content: Mapping[str, Any]


def append(storage: Storage, prefix: str, number: int, content: Mapping[str, Any]) -> Entry:
    """Writes the entry of a number, which must be one more than the newest that the writer has seen.

    Raises EntryTaken where another process was faster: read the log again, and decide again.
    """
    key = f"{prefix}/{number:0{_DIGITS}d}.json"
    try:
        storage.create(key, json.dumps(content, indent=2, sort_keys=True).encode())
    except KeyExists:
        raise EntryTaken(f"{storage.uri(key)} was written by another process meanwhile") from None
    return Entry(number, key, content)


def read(storage: Storage, prefix: str, keys: Iterable[str] | None = None) -> list[Entry]:
    """The entries directly under a prefix, oldest first. `keys` are those there, if they are listed.

    Raises CorruptEntry for a file that is no JSON object or isn't named by a number, and for a gap.
    """
    entries: list[Entry] = []
    for key in storage.list(prefix) if keys is None else keys:
        stem = key.removeprefix(f"{prefix}/").removesuffix(".json")
        if "/" in stem:
            continue
        if not (stem.isdigit() and len(stem) == _DIGITS and key.endswith(".json")):
            raise CorruptEntry(
                f"{storage.uri(key)} doesn't belong there: entries are named 000001.json and so on. "
                "Remove it"
            )
        if int(stem) != len(entries) + 1:
            raise CorruptEntry(
                f"{storage.uri(prefix)} lacks entry {len(entries) + 1:0{_DIGITS}d}, and has {stem}: "
                "restore it"
            )
        try:
            content = json.loads(storage.read(key))
        except ValueError as error:
            raise CorruptEntry(f"{storage.uri(key)} is not JSON: {error}. Restore it") from error
        if not isinstance(content, dict):
            raise CorruptEntry(f"{storage.uri(key)} is {content!r}: expected a JSON object")
        entries.append(Entry(int(stem), key, content))
    return entries
