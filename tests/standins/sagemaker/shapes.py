"""Requests checked against botocore's service models as the services do it: on their side.

botocore's own check in the client knows no patterns, no enumerations and not all maxima.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

from botocore.session import get_session

from standins.sagemaker.requests import Request, ValidationError

# Unicode classes of Java's regular expressions, as far as re can say them inside brackets.
_UNICODE_CLASSES = {
    r"\p{Alnum}": "A-Za-z0-9",
    r"\p{L}": "A-Za-z\u00aa-\uffff",
    r"\p{Z}": " \u00a0\u2000-\u200a",
    r"\p{N}": "0-9",
    r"\p{M}": "\u0300-\u036f",
    r"\p{P}": r"!-#%-*,-/:;?@\[-\]_{}",
    r"\p{S}": r"$+<->\^`|~",
}

# Java lets the end of a text be repeated, which says no more than the end.
_REPEATED_END = re.compile(r"\$\{\d+,\d+\}$")


@functools.cache
def _service_model(service: str) -> Any:
    return get_session().get_service_model(service)


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    for java, python in _UNICODE_CLASSES.items():
        pattern = pattern.replace(java, python)
    pattern = _REPEATED_END.sub("$", pattern)
    return re.compile(pattern)


def check_request(request: Request) -> None:
    """Raises ValidationError, in the services' own words, for what the model forbids."""
    shape = _service_model(request.service).operation_model(request.operation).input_shape
    if shape is None:
        return
    problems = list(_problems(shape, dict(request.parameters), ""))
    if problems:
        noun = "error" if len(problems) == 1 else "errors"
        raise ValidationError(f"{len(problems)} validation {noun} detected: " + "; ".join(problems))


def _problems(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                yield _problem(None, _join(path, name), "Member must not be null")
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _problems(member, value[name], _join(path, name))
        return
    for constraint in _broken(shape, value):
        yield _problem(value, path, constraint)
    if shape.type_name == "list":
        for number, item in enumerate(value, 1):
            yield from _problems(shape.member, item, f"{path}.{number}.member")
    elif shape.type_name == "map":
        for key, item in value.items():
            for constraint in _broken(shape.key, key):
                yield _problem(value, path, f"Map keys must satisfy constraint: [{constraint}]")
            for constraint in _broken(shape.value, item):
                yield _problem(value, path, f"Map value must satisfy constraint: [{constraint}]")


def _broken(shape: Any, value: Any) -> Iterator[str]:
    """The constraints of one shape that a value breaks, without those of its members."""
    limits = shape.metadata
    if shape.type_name in ("string", "list", "map"):
        if len(value) < limits.get("min", 0):
            yield f"Member must have length greater than or equal to {limits['min']}"
        if "max" in limits and len(value) > limits["max"]:
            yield f"Member must have length less than or equal to {limits['max']}"
    elif shape.type_name in ("integer", "long", "float", "double"):
        if "min" in limits and value < limits["min"]:
            yield f"Member must have value greater than or equal to {limits['min']}"
        if "max" in limits and value > limits["max"]:
            yield f"Member must have value less than or equal to {limits['max']}"
    if shape.type_name == "string":
        if "enum" in limits and value not in limits["enum"]:
            yield f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]"
        if "pattern" in limits and not _pattern(limits["pattern"]).fullmatch(value):
            yield f"Member must satisfy regular expression pattern: {limits['pattern']}"


def _problem(value: Any, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


def _join(path: str, name: str) -> str:
    name = name[0].lower() + name[1:]
    return f"{path}.{name}" if path else name
