"""Errors of a defs.yaml that only show once its attributes are compared with something else."""

import difflib
from collections.abc import Iterable
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


def _place(context: dg.ComponentLoadContext, attribute: str) -> str:
    """`file:line` of an attribute, or the folder where the component isn't written in YAML."""
    path = context.component_path
    file = path.file_path if path.file_path.suffix == ".yaml" else path.file_path / "defs.yaml"
    if not file.exists():
        return str(path.file_path)
    documents = list(yaml.compose_all(file.read_text(), Loader=yaml.SafeLoader))
    index = path.instance_key if isinstance(path.instance_key, int) else 0
    return f"{file}:{_line(documents[index], ['attributes', *attribute.split('.')], file)}"


def _line(node: yaml.Node | None, keys: list[str], file: Path) -> int:
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
