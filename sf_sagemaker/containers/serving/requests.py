"""Reading a request and refusing what can't be answered, for models of every kind."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from sf_sagemaker.containers.errors import ContainerError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"

MAX_BODY = 6_291_456  # bytes; the limit of InvokeEndpoint, SageMaker Runtime API

_EXCERPT = 60  # characters of a value that a message repeats


class RequestRefused(ContainerError):
    """A request that can't be answered; `status` is HTTP's code for it, between 400 and 499."""

    status = 400


class BodyTooLarge(RequestRefused):
    """A body beyond what SageMaker would let through."""

    status = 413


class UnsupportedMediaType(RequestRefused):
    """A body of a type that the model doesn't read."""

    status = 415


class NotAcceptable(RequestRefused):
    """A client that takes none of the types that the model answers in."""

    status = 406


def media_type(content_type: str, readable: Sequence[str]) -> str:
    """The type of a body without its parameters; JSON where the client doesn't say.

    Raises UnsupportedMediaType for a type that isn't readable, or another encoding than UTF-8.
    """
    name, *parameters = (part.strip() for part in content_type.lower().split(";"))
    if not name:
        return JSON
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType(f"the body is in {value}: send it in UTF-8")
    if name not in readable:
        raise UnsupportedMediaType(
            f"the content type is {excerpt(name)}: expected {' or '.join(readable)}"
        )
    return name


def answer_type(accept: str, asked_in: str, answers: Sequence[str]) -> str:
    """The type to answer in: the first that the client names, and the request's own unless it does.

    Raises NotAcceptable.
    """
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    default = asked_in if asked_in in answers else JSON
    for name in filter(None, wanted):
        if name == "*/*":
            return default
        for answer in answers:
            if name in (answer, f"{answer.split('/')[0]}/*"):
                return answer
    if any(wanted):
        raise NotAcceptable(
            f"the client accepts {excerpt(accept)}: answers are {' or '.join(answers)}"
        )
    return default


def decode(body: bytes) -> str:
    """The text of a body. Raises RequestRefused."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(
            f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}"
        ) from None


def instances(body: bytes, content_type: str = JSON) -> list[Mapping[str, Any]]:
    """The rows of a body, at least one: `{"instances": [{…}, …]}`, or an object in each line of
    JSON_LINES. Raises RequestRefused."""
    rows = _lines(body) if content_type == JSON_LINES else _instances(body)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RequestRefused(f"row {number} is {_shape(row)}: expected an object")
    return rows


def _instances(body: bytes) -> list[Any]:
    content = _parse(decode(body), "the body")
    if not isinstance(content, dict) or set(content) != {"instances"}:
        raise RequestRefused(
            f'the body is {_shape(content)}: expected an object {{"instances": [row, …]}}'
        )
    rows = content["instances"]
    if not isinstance(rows, list):
        raise RequestRefused(f"instances is {_shape(rows)}: expected a list of rows")
    if not rows:
        raise RequestRefused("instances is empty: expected at least one row")
    return rows


def _lines(body: bytes) -> list[Any]:
    lines = decode(body).removesuffix("\n").split("\n")
    if lines == [""]:
        raise RequestRefused("the body is empty: expected a row in each line")
    return [_parse(line, f"line {number}") for number, line in enumerate(lines, start=1)]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestRefused(f"{where} is nested too deeply to be read") from None
    except ValueError as error:
        raise RequestRefused(f"{where} is not JSON: {error}") from None


def check_names(number: int, found: Mapping[str, Any], required: Sequence[str]) -> None:
    """Raises RequestRefused where a row lacks one of the names, or has another one."""
    if found.keys() == set(required):
        return
    missing = [name for name in required if name not in found]
    if missing:
        raise RequestRefused(
            f"row {number} has no {missing[0]!r}"
            + (f", and {len(missing) - 1} more are missing" if len(missing) > 1 else "")
            + ": send every feature, and null for one that is unknown"
        )
    unknown = next(name for name in found if name not in required)
    raise RequestRefused(
        f"row {number} has {excerpt(unknown)}, which the model doesn't know: "
        f"it has {', '.join(required)}"
    )


def excerpt(value: object) -> str:
    """A value as messages repeat it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


def to_json(predictions: Sequence[Mapping[str, Any]], content_type: str = JSON) -> bytes:
    """The body of an answer in JSON, or with a line for each row in JSON_LINES."""
    if content_type == JSON_LINES:
        return "".join(f"{json.dumps(prediction)}\n" for prediction in predictions).encode()
    return json.dumps({"predictions": predictions}).encode()


def finite(value: float) -> float | None:
    """A number, or None for one that JSON doesn't have."""
    return value if math.isfinite(value) else None


_DIGITS = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parse_number(cell: str) -> float | None:
    """The number in a cell, or None where it holds none. `true` and `false` count as 1 and 0."""
    if _DIGITS.fullmatch(cell):
        return float(cell)
    return {"true": 1.0, "false": 0.0}.get(cell.lower())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; send null for a missing value")


def _shape(value: object) -> str:
    if isinstance(value, dict):
        return f"an object of {excerpt(list(value))}" if value else "an empty object"
    kinds: dict[type, str] = {list: "a list", str: "a text", type(None): "null"}
    return kinds.get(type(value), f"the value {excerpt(value)}")
