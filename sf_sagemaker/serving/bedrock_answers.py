"""Answers that were paid for, kept: `<folder>/NNNNNN.jsonl`, each part created once, as they come.

Prompts are named by digests; what Claude wrote is there in full.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sf_sagemaker.serving.bedrock import Conversation, Reply
from sf_sagemaker.serving.errors import ServingError
from sf_sagemaker.storage import KeyExists, Storage

_SUFFIX = ".jsonl"


class CorruptAnswers(ServingError):
    """A part that is not what its writer writes."""


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

    def read(self) -> dict[str, Reply]:
        """The first answer to each prompt, by the prompt's digest. Raises CorruptAnswers."""
        found: dict[str, Reply] = {}
        parts = 0
        for key in self.storage.list(self.folder):
            name = key.removeprefix(f"{self.folder}/")
            if "/" in name or not name.endswith(_SUFFIX):
                continue
            for number, line in enumerate(self.storage.read(key).decode().splitlines(), 1):
                reply = self._reply(key, number, line)
                found.setdefault(reply.prompt, reply)
            parts += 1
        with self._lock:
            self._parts = max(self._parts, parts)
        return found

    def add(self, replies: Sequence[Reply]) -> None:
        """Writes answers as one part, under the first number that nobody has taken."""
        if not replies:
            return
        content = "".join(json.dumps(asdict(reply)) + "\n" for reply in replies).encode()
        with self._lock:
            if not self._parts:
                self._describe()
            while True:
                self._parts += 1
                try:
                    self.storage.create(f"{self.folder}/{self._parts:06d}{_SUFFIX}", content)
                except KeyExists:
                    continue
                return

    def _describe(self) -> None:
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
