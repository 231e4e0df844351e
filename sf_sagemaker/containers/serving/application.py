"""The ASGI application of an endpoint: GET /ping and POST /invocations, as SageMaker calls them.

Two paths need no framework, and the images have none: only a server travels with this code.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from sf_sagemaker.containers.serving.requests import (
    JSON,
    MAX_BODY,
    BodyTooLarge,
    RequestRefused,
    UnsupportedMediaType,
)

# The one header of a model's own that SageMaker hands on to the caller, as CustomAttributes.
VERSION_HEADER = "X-Amzn-SageMaker-Custom-Attributes"

_PATHS = {"/ping": "GET", "/invocations": "POST"}

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Handler(Protocol):
    """A loaded model. Bodies of up to `inline_bytes` are answered in less time than a thread takes."""

    @property
    def inline_bytes(self) -> int: ...

    def answer(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer to a body, and its content type. Raises RequestRefused."""
        ...


class NoSuchPath(RequestRefused):
    """A path that an endpoint doesn't have."""

    status = 404


class MethodNotAllowed(RequestRefused):
    """A path that is asked for in another way."""

    status = 405


class ClientGone(Exception):
    """A client that went away before it had sent its whole request: nobody waits for an answer."""


class Application:
    """Answers with one model. Every answer names the model's version in VERSION_HEADER.

    While `draining` is set, each answer closes its connection, so that clients come back to whoever
    serves by then.
    """

    def __init__(self, handler: Handler, version: str) -> None:
        self.draining = False
        self._handler = handler
        self._version = version.encode("ascii")
        # One thread: a model is not asked twice at a time, and requests wait their turn.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = []
        try:
            body, content_type = await self._answer(scope, receive)
            status = 200
        except RequestRefused as refused:
            status, content_type = refused.status, JSON
            body = json.dumps({"error": str(refused)}).encode()
            if isinstance(refused, MethodNotAllowed):
                headers.append((b"allow", _PATHS[scope["path"]].encode()))
            elif isinstance(refused, BodyTooLarge):
                headers.append((b"connection", b"close"))  # the rest of it is not read
        except ClientGone:
            return
        headers += [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (VERSION_HEADER.lower().encode(), self._version),
        ]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> tuple[bytes, str]:
        path = scope["path"]
        if path not in _PATHS:
            raise NoSuchPath(f"there is no {path!r}: POST /invocations, or GET /ping")
        if scope["method"] != _PATHS[path]:
            raise MethodNotAllowed(f"{path} takes {_PATHS[path]}, not {scope['method']}")
        if path == "/ping":
            return b"", JSON
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"content-encoding", "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("the body is compressed: send it as it is")
        body = await _read_body(receive)
        arguments = body, headers.get(b"content-type", ""), headers.get(b"accept", "")
        if len(body) <= self._handler.inline_bytes:
            return self._handler.answer(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._handler.answer, *arguments)


async def _read_body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise BodyTooLarge(
                f"the body has more than {MAX_BODY:,} bytes: send fewer rows at once"
            )
        if not message.get("more_body", False):
            return b"".join(parts)
