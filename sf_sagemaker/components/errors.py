"""Errors of a defs.yaml that only show once its attributes are compared with something else."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg
import yaml

from sf_sagemaker.errors import SfSagemakerError


class InvalidAttribute(SfSagemakerError):
    """An attribute of a defs.yaml that names what isn't there; says the file, the line and what is."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """What is allowed, as a sentence, with the nearest name first when there is one."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}There are: {', '.join(names) if names else 'none'}"


def invalid_attribute(
    context: dg.ComponentLoadContext, attribute: str, message: str
) -> InvalidAttribute:
    """The error for an attribute (dotted, from `attributes` down) of the component being loaded."""
    place = _place(context, attribute)
    return InvalidAttribute(f"{place} - attributes.{attribute}: {message}")


def written_twice(context: dg.ComponentLoadContext) -> Iterator[InvalidAttribute]:
    """Names that a group of the component's attributes has twice, of which YAML keeps the last."""
    file = _file(context)
    if file is None:
        return
    for names, first, second in _repeated(_document(context, file), ()):
        yield InvalidAttribute(
            f"{file}:{second} - {'.'.join(names)}: written in line {first} already; keep one of them"
        )


def _repeated(
    node: yaml.Node | None, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Names that a mapping has twice, from the top down, with the lines of both."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, above)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        line, names = name.start_mark.line + 1, (*above, str(name.value))
        if name.value in lines:
            yield names, lines[name.value], line
        lines.setdefault(name.value, line)
        yield from _repeated(value, names)


def _place(context: dg.ComponentLoadContext, attribute: str) -> str:
    """`file:line` of an attribute, or the folder where the component isn't written in YAML."""
    file = _file(context)
    if file is None:
        return str(context.component_path.file_path)
    return f"{file}:{_line(_document(context, file), ['attributes', *attribute.split('.')])}"


def _file(context: dg.ComponentLoadContext) -> Path | None:
    """The YAML that the component is written in; None where it is written in Python."""
    path = context.component_path.file_path
    file = path if path.suffix == ".yaml" else path / "defs.yaml"
    return file if file.exists() else None


def _document(context: dg.ComponentLoadContext, file: Path) -> yaml.Node | None:
    documents = list(yaml.compose_all(file.read_text(), Loader=yaml.SafeLoader))
    key = context.component_path.instance_key
    return documents[key if isinstance(key, int) else 0]


def _line(node: yaml.Node | None, keys: list[str]) -> int:
    """The line of the deepest of `keys` that the document has."""
    line = node.start_mark.line + 1 if node is not None else 1
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        for name, value in node.value:
            if name.value == key:
                line, node = name.start_mark.line + 1, value
                break
        else:
            break
    return line
