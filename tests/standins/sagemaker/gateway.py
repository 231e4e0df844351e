"""The way of a request: recorded, checked, hit by faults, and carried out, here or by moto."""

import io
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from standins.sagemaker.buckets import Buckets, WrongRegion
from standins.sagemaker.calls import Calls
from standins.sagemaker.faults import Faults, Lost
from standins.sagemaker.limits import RateLimits
from standins.sagemaker.requests import (
    Answer,
    ApiError,
    Handler,
    Request,
    error_answer,
    json_answer,
    read_request,
)
from standins.sagemaker.shapes import check_request

StartResponse = Callable[..., Any]


class Gateway:
    """A WSGI application in front of moto's.

    `handlers` answer operations in moto's place; where `applies` says no to a request, moto does.
    """

    def __init__(self, calls: Calls, faults: Faults, limits: RateLimits, buckets: Buckets) -> None:
        self._calls = calls
        self._faults = faults
        self._limits = limits
        self._buckets = buckets
        self._handlers: dict[tuple[str, str], tuple[Handler, Callable[[Request], bool]]] = {}
        self._downloads: dict[str, Callable[[str], bytes | None]] = {}
        self._moto = DomainDispatcherApplication(create_backend_app)

    def handle(
        self,
        operations: Mapping[tuple[str, str], Handler],
        applies: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        for operation, handler in operations.items():
            self._handlers[operation] = (handler, applies)

    def serve(self, prefix: str, content: Callable[[str], bytes | None]) -> None:
        """Answers plain downloads of paths that start so, which are no calls."""
        self._downloads[prefix] = content

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        for prefix, content in self._downloads.items():
            if path.startswith(prefix):
                found = content(path)
                answer = Answer(404, {}, b"") if found is None else Answer(200, {}, found)
                return _send(answer, environ, start_response)
        body = _read_body(environ)
        request = read_request(_with_body(environ, body), body)
        call = self._calls.add(request)
        fault = self._faults.take(request)
        if fault is not None and fault.lost is Lost.REQUEST:
            _break(environ)
        if fault is not None and fault.seconds:
            time.sleep(fault.seconds)
        try:
            if fault is not None and fault.error is not None:
                raise fault.error(request)
            self._limits.check(request)
            answer = self._carry_out(request, environ, body)
        except ApiError as error:
            call.error = error.code
            answer = error_answer(request, error)
            if isinstance(error, WrongRegion):
                headers = {**answer.headers, "x-amz-bucket-region": error.region}
                answer = replace(answer, headers=headers)
        call.status = answer.status
        if fault is not None and fault.lost is Lost.ANSWER:
            _break(environ)
        call.answered = True
        return _send(answer, environ, start_response)

    def _carry_out(self, request: Request, environ: dict[str, Any], body: bytes) -> Answer:
        if request.service == "sagemaker" and " " not in request.operation:
            check_request(request)
        if request.service == "s3":
            self._buckets.check_region(request)
        handler, applies = self._handlers.get(
            (request.service, request.operation), (None, lambda request: False)
        )
        if handler is not None and applies(request):
            result = handler(request)
            return result if isinstance(result, Answer) else json_answer(result)
        if request.operation == "GetLogEvents":
            _check_direction(request)
            if self._faults.take_empty_log_page():
                return json_answer(_empty_log_page(request))
        answers: list[Answer] = []
        self._buckets.write_once(request, lambda: answers.append(self._ask_moto(environ, body)))
        return answers[0]

    def _ask_moto(self, environ: dict[str, Any], body: bytes) -> Answer:
        started: list[tuple[int, dict[str, str]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            started.append((int(status.split(" ", 1)[0]), dict(headers)))

        try:
            content = b"".join(self._moto(_with_body(environ, body), start_response))
        except NotImplementedError as error:
            raise ApiError("NotInStandIn", f"this stand-in can't do that: {error}") from error
        status, headers = started[0]
        return Answer(status, headers, content)


def _read_body(environ: dict[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return stream.read()
    return stream.read(int(environ.get("CONTENT_LENGTH") or 0))


def _with_body(environ: dict[str, Any], body: bytes) -> dict[str, Any]:
    """A copy of the environ from which the body can be read again."""
    copy = {
        name: value
        for name, value in environ.items()
        if name not in ("HTTP_TRANSFER_ENCODING", "werkzeug.request", "wsgi.input_terminated")
    }
    return copy | {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def _break(environ: dict[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("a fault broke this connection")


def _send(
    answer: Answer, environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    reason = HTTPStatus(answer.status).phrase
    headers = dict(answer.headers)
    if environ["REQUEST_METHOD"] != "HEAD":
        headers["Content-Length"] = str(len(answer.body))
    start_response(f"{answer.status} {reason}", list(headers.items()))
    return [answer.body]


def _check_direction(request: Request) -> None:
    """A forward token is only good for reading forward; GetLogEvents, API reference."""
    forward = str(request.parameters.get("nextToken", "")).startswith("f/")
    if forward and not request.parameters.get("startFromHead"):
        raise ApiError(
            "InvalidParameterException", "startFromHead must be true with a nextForwardToken"
        )


def _empty_log_page(request: Request) -> dict[str, Any]:
    """No events, and a token that stands for the same place as the one of the request."""
    token = request.parameters.get("nextToken") or f"f/{-1:056d}"
    direction, _, index = token.partition("/")
    other = f"{direction}/{int(index):0{len(index) + 1}d}"
    return {"events": [], "nextForwardToken": other, "nextBackwardToken": other}
