"""Readers of the strings that a training job carries: what each hyperparameter may be."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from sf_sagemaker.containers.errors import ContainerError


class InvalidHyperparameter(ContainerError, ValueError):
    """A hyperparameter that doesn't exist, or a value that it can't have."""


def number(low: float, high: float = float("inf"), *, excluded: str = "") -> Callable[[str], float]:
    """Reads a number in a range; `excluded` names the ends ("low", "high") that are not in it."""

    def read(text: str) -> float:
        value = float(text)
        below = value <= low if "low" in excluded else value < low
        above = value >= high if "high" in excluded else value > high
        if below or above or value != value:
            left = "(" if "low" in excluded else "["
            right = ")" if "high" in excluded else "]"
            raise ValueError(f"a number in {left}{low:g}, {high:g}{right}")
        return value

    return read


def whole(low: int) -> Callable[[str], int]:
    """Reads a whole number that is not below `low`."""

    def read(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError(f"a whole number from {low}")
        return value

    return read


def choice(*allowed: str) -> Callable[[str], str]:
    """Reads one of the allowed words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}{suggestion(text, allowed)}")
        return text

    return read


def read_value(name: str, text: str, reader: Callable[[str], Any]) -> Any:
    """What a reader makes of a hyperparameter's string. Raises InvalidHyperparameter."""
    try:
        return reader(text)
    except ValueError as error:
        expected = str(error)
        if "could not convert" in expected or "invalid literal" in expected:
            expected = "a number" if "float" in expected else "a whole number"
        raise InvalidHyperparameter(f"{name} is {text!r}: expected {expected}") from None


def unknown(name: str, known: Iterable[str]) -> InvalidHyperparameter:
    """The error for a hyperparameter that doesn't exist; `known` are those that do."""
    names = sorted(known)
    return InvalidHyperparameter(
        f"no hyperparameter {name!r}{suggestion(name, names)}. There are: {', '.join(names)}"
    )


def suggestion(text: str, allowed: Iterable[str]) -> str:
    """The end of a message about a misspelled word: the likely one, or nothing."""
    close = difflib.get_close_matches(text, list(allowed), 1)
    return f": did you mean {close[0]!r}?" if close else ""
