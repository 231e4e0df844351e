"""Plots of the lifecycle are pictures, also of little, of gaps and of nothing."""

import base64
import math
import re
import struct
from dataclasses import replace

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.drifting_level import DriftingLevel
from sf_sagemaker.components import lifecycle_plots
from sf_sagemaker.lifecycle.decay import DecayLimits, DecayPoint
from sf_sagemaker.lifecycle.decay_curve import decay_curve, freshness_window, measure_ages
from sf_sagemaker.lifecycle.drift import measure_drift
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.lifecycle.measures import NumericMeasure

LIMITS = DecayLimits(rolling=4, min_rows=500, max_bias=0.03, max_relative_excess_error=0.05)
UNKNOWN = Interval(math.nan, math.nan, math.nan)
POINT = DecayPoint(
    partition="2024-01-01",
    version=1,
    training_partition="2023-12-25",
    training_job="job",
    rows=1000,
    periods=4,
    error=10.0,
    reference_error=12.0,
    bias=Interval(-0.02, -0.03, -0.01),
    excess=Interval(0.02, -0.01, 0.05),
    state="healthy",
    causes=(),
    reason="",
)
SILENT = replace(
    POINT,
    error=math.nan,
    reference_error=math.nan,
    bias=UNKNOWN,
    excess=UNKNOWN,
    state="no verdict",
)
SERIES = [
    SILENT,
    replace(POINT, partition="2024-01-08"),
    replace(POINT, partition="2024-01-15", state="decayed", causes=("bias", "error")),
    replace(POINT, partition="2024-01-22", version=2),
]


def size_of(plot: dg.MarkdownMetadataValue) -> tuple[int, int]:
    """Width and height of the PNG in a Markdown value, in pixels."""
    assert plot.value is not None
    found = re.fullmatch(r"!\[[^]]+\]\(data:image/png;base64,([^)]+)\)", plot.value)
    assert found is not None
    png = base64.b64decode(found[1])
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("points", [SERIES, SERIES[:1], []], ids=["series", "silent", "nothing"])
@pytest.mark.parametrize("against", ["zero", "start"])
def test_decay_series(points, against):
    limits = replace(LIMITS, bias_against=against)
    plot = lifecycle_plots.decay_series(points, limits, "median_absolute_percentage_error")
    assert size_of(plot) == (770, 660)


@pytest.mark.parametrize(
    "stream",
    [
        DriftingLevel(rise=0.05, rows=40, window=4, periods=20),
        DriftingLevel(rise=0, rows=40, window=4, periods=20),
        DriftingLevel(rise=0, rows=40, window=4, periods=5),
        DriftingLevel(rise=0, window=4, periods=4),
    ],
    ids=["crossed", "not crossed", "one period", "nothing"],
)
def test_decay_curve(stream):
    measure = NumericMeasure("regression", "mean_absolute_error")
    matrix = measure_ages(measure, stream.evaluated(1), stream.cadence, seed=1, draws=20)
    curve = decay_curve(matrix, tolerance=0.05, seed=1, draws=50)
    window = freshness_window(curve, stream.cadence, label_delay=0)
    assert size_of(lifecycle_plots.error_matrix(matrix))[0] == 770
    assert size_of(lifecycle_plots.excess_by_age(curve, window, "week"))[0] == 770


def test_input_drift():
    random = np.random.default_rng(0)
    names = [f"feature_{n}" for n in range(30)]
    training, recent = (
        pa.table({name: random.normal(size=60) for name in names}) for _ in range(2)
    )
    features = [(name, "numeric") for name in names]
    few = lifecycle_plots.input_drift(measure_drift(training, recent, features[:2]))
    many = lifecycle_plots.input_drift(measure_drift(training, recent, features))
    none = lifecycle_plots.input_drift(measure_drift(training, recent.slice(0, 0), features))
    assert size_of(none)[1] <= size_of(few)[1] < size_of(many)[1]
