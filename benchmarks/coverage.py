"""Does the interval of the crossing age hold the true one? Synthetic streams whose decay is known.

From the repository's root: python -m benchmarks.coverage
"""

import argparse
from statistics import median

from benchmarks.drifting_level import DriftingLevel
from sf_sagemaker.lifecycle.decay_curve import DecayCurve, decay_curve, measure_ages
from sf_sagemaker.lifecycle.measures import NumericMeasure

_TOLERANCE = 0.05
_MEASURE = NumericMeasure("regression", "mean_absolute_error")
_STREAMS = {
    "as many rows as house sales": DriftingLevel(rise=0.004),
    "few rows": DriftingLevel(rise=0.006, rows=60),
    "few rows, short window": DriftingLevel(rise=0.012, rows=60, window=8),
    "few periods": DriftingLevel(rise=0.008, periods=30, window=8),
    "crossing near the end of the data": DriftingLevel(rise=0.0024),
    "periods that share a shock": DriftingLevel(rise=0.004, shock=0.02),
}
_STEADY = {
    "as many rows as house sales": DriftingLevel(rise=0),
    "few rows": DriftingLevel(rise=0, rows=60, window=8),
    "periods that share a shock": DriftingLevel(rise=0, shock=0.02),
}


def main() -> None:
    """Prints a line for each stream: how many seeds' intervals hold the true crossing age."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    seeds = parser.parse_args().seeds
    print("| stream | true age | interval, median | covered | not above |\n|---|---|---|---|---|")
    for name, stream in _STREAMS.items():
        truth = stream.true_crossing(_TOLERANCE)
        bounds = [_bounds(curve_of(stream, seed)) for seed in range(seeds)]
        low, high = (median(side) for side in zip(*bounds, strict=True))
        covered = sum(low <= truth <= high for low, high in bounds)
        safe = sum(low <= truth for low, _ in bounds)
        print(
            f"| {name} | {truth:.1f} | {low:.1f} to {high:.1f} | {covered} of {seeds} "
            f"| {safe} of {seeds} |",
            flush=True,
        )
    print("\n| stream without drift | crossing found | lower bound found |\n|---|---|---|")
    for name, stream in _STEADY.items():
        crossings = [curve_of(stream, seed).crossing for seed in range(seeds)]
        found = sum(crossing.estimate is not None for crossing in crossings)
        bounded = sum(crossing.low is not None for crossing in crossings)
        print(f"| {name} | {found} of {seeds} | {bounded} of {seeds} |", flush=True)


def curve_of(stream: DriftingLevel, seed: int) -> DecayCurve:
    matrix = measure_ages(_MEASURE, stream.evaluated(seed), stream.cadence, seed=seed)
    return decay_curve(matrix, tolerance=_TOLERANCE, seed=seed)


def _bounds(curve: DecayCurve) -> tuple[float, float]:
    """Infinite where the bound is not within the data."""
    bounds = (curve.crossing.low, curve.crossing.high)
    low, high = (float("inf") if bound is None else bound for bound in bounds)
    return low, high


if __name__ == "__main__":
    main()
