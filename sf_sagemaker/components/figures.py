"""Figures for asset metadata, which has no place for what is undefined."""

import math
from collections.abc import Mapping


def rounded(value: float) -> float | None:
    """Five significant digits, for a table; None for NaN."""
    return None if math.isnan(value) else float(f"{value:.5g}")


def defined(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that are numbers: a missing one says that it is undefined."""
    return {name: value for name, value in figures.items() if not math.isnan(value)}
