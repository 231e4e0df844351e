"""The part of JSONPath that batch transform's filters know: "Supported JSONPath Operators" in the
developer guide, without the wildcard."""

import re
from typing import Any

_STEP = re.compile(
    r"\.(?P<name>[\w-]+)"
    r"|\.?\[(?P<names>'[^']*'(?:\s*,\s*'[^']*')*)\]"
    r"|\[(?P<slice>-?\d*:-?\d*)\]"
    r"|\[(?P<numbers>-?\d+(?:\s*,\s*-?\d+)*)\]"
)


def select(value: Any, path: str) -> Any:
    """What a path selects of a JSON value. Raises ValueError for a path, KeyError for a name."""
    if not path.startswith("$"):
        raise ValueError(f"{path!r} doesn't begin with $")
    position = 1
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise ValueError(f"{path!r} can't be read from character {position}")
        value = _step(value, step)
        position = step.end()
    return value


def _step(value: Any, step: re.Match[str]) -> Any:
    if step["name"] is not None:
        return value[step["name"]]
    if step["names"] is not None:
        names = re.findall(r"'([^']*)'", step["names"])
        if len(names) == 1:
            return value[names[0]]
        return {name: value[name] for name in names}
    if step["slice"] is not None:
        first, _, last = step["slice"].partition(":")
        return value[int(first) if first else None : int(last) if last else None]
    numbers = [int(number) for number in step["numbers"].split(",")]
    return value[numbers[0]] if len(numbers) == 1 else [value[number] for number in numbers]
