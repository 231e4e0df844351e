"""Answers that were paid for, kept: `<folder>/NNNNNN.jsonl`, each part created once, as they come.

Prompts are named by digests; what Claude wrote is there in full. The number of a part is the lock: of two
runs that ask at once, the one that finds its next number taken keeps what it has in a part of its own, and
stops.
"""

import json
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sf_sagemaker.serving.bedrock import Conversation, Reply
from sf_sagemaker.serving.errors import ServingError
from sf_sagemaker.storage import KeyExists, Storage

_SUFFIX = ".jsonl"
_NUMBERED = re.compile(r"(\d{6,})\.jsonl")


class CorruptAnswers(ServingError):
    """A part that is not what its writer writes."""


class AskedElsewhere(ServingError):
    """Another run that asks the same questions now."""

    permanent = True


def answers_folder(model: str, partition: str, conversation: Conversation) -> str:
    """Where the answers of a conversation lie, about a model's partition."""
    return f"baselines/{model}/{partition}/{conversation.digest}"


class Answers:
    """The answers in a folder of storage. `conversation.json` says what was asked with."""

    def __init__(self, storage: Storage, folder: str, conversation: Conversation) -> None:
        self.storage = storage
        self.folder = folder
        self.conversation = conversation
        self._lock = threading.Lock()
        self._parts = 0
        self._described = False

    def read(self) -> dict[str, Reply]:
        """The first answer to each prompt, by the prompt's digest. Raises CorruptAnswers."""
        found: dict[str, Reply] = {}
        last = 0
        for key in self.storage.list(self.folder):
            name = key.removeprefix(f"{self.folder}/")
            if "/" in name or not name.endswith(_SUFFIX):
                continue
            for number, line in enumerate(self.storage.read(key).decode().splitlines(), 1):
                reply = self._reply(key, number, line)
                found.setdefault(reply.prompt, reply)
            if numbered := _NUMBERED.fullmatch(name):
                last = max(last, int(numbered[1]))
        with self._lock:
            self._parts = max(self._parts, last)
        return found

    def add(self, replies: Sequence[Reply]) -> None:
        """Writes answers as the part after the last one that was read or written here.

        Raises AskedElsewhere where another run has written that one; the answers are kept all the same.
        """
        if not replies:
            return
        with self._lock:
            if self._create(f"{self._parts + 1:06d}", replies):
                self._parts += 1
                return
        self.add_apart(replies)
        raise AskedElsewhere(
            f"another run asks the same questions, and keeps its answers in "
            f"{self.storage.uri(self.folder)}: this one has stopped, and its answers are kept too. "
            "Materialize again when the other has ended"
        )

    def add_apart(self, replies: Sequence[Reply], name: str = "") -> None:
        """Writes answers as a part without a number. One of the same name has the same answers."""
        if replies:
            self._create(name or f"apart-{uuid.uuid4().hex}", replies)

    def _create(self, name: str, replies: Sequence[Reply]) -> bool:
        """Whether the part wasn't there yet."""
        content = "".join(json.dumps(asdict(reply)) + "\n" for reply in replies).encode()
        self._describe()
        try:
            self.storage.create(f"{self.folder}/{name}{_SUFFIX}", content)
        except KeyExists:
            return False
        return True

    def _describe(self) -> None:
        if self._described:
            return
        self._described = True
        content = json.dumps(asdict(self.conversation), indent=1).encode()
        try:
            self.storage.create(f"{self.folder}/conversation.json", content)
        except KeyExists:
            return

    def _reply(self, key: str, number: int, line: str) -> Reply:
        try:
            content = json.loads(line)
            if not isinstance(content, Mapping):
                raise ValueError(f"{content!r} is no object")
            return Reply(**content)
        except (ValueError, TypeError) as error:
            raise CorruptAnswers(
                f"{self.storage.uri(key)}, line {number}, is no answer ({error}): restore the file, or "
                "remove it, and its prompts are asked again"
            ) from error
