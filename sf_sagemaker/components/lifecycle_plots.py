"""Plots of what becomes of a model: its decay over time and by age, and the drift of its inputs."""

import math
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from sf_sagemaker.components.plots import markdown
from sf_sagemaker.lifecycle.decay import Cause, DecayLimits, DecayPoint
from sf_sagemaker.lifecycle.decay_curve import AgeMatrix, DecayCurve, FreshnessWindow
from sf_sagemaker.lifecycle.drift import InputDrift
from sf_sagemaker.periods import Every

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

_BLUE, _GREY, _RED, _GREEN = "#4f6bd8", "#868e96", "#d9480f", "#2b8a3e"


def decay_series(
    points: Sequence[DecayPoint], limits: DecayLimits, metric: str
) -> dg.MarkdownMetadataValue:
    """Error, excess and bias of the champions over time, with intervals and limits.

    Green lines are promotions, with the version that they put in force.
    """
    import numpy as np
    from matplotlib.dates import date2num

    dates = np.array([date2num(datetime.strptime(of.partition, "%Y-%m-%d")) for of in points])
    promotions = [
        (dates[number], points[number].version)
        for number in range(1, len(points))
        if points[number].version != points[number - 1].version
    ]
    two_sided = limits.bias_against == "zero"

    def draw(error: "Axes", excess: "Axes", bias: "Axes") -> None:
        error.plot(dates, [point.error for point in points], color=_BLUE, label="champion")
        error.plot(
            dates, [point.reference_error for point in points], color=_GREY, label="reference"
        )
        error.set_ylabel(textwrap.fill(_words(metric), 20), fontsize=8)
        error.legend(frameon=False, fontsize=8)
        _signal(excess, dates, points, "error", 100)
        excess.axhline(
            100 * limits.max_relative_excess_error, color=_RED, linestyle="--", linewidth=1
        )
        excess.set_ylabel("excess error, %", fontsize=8)
        _signal(bias, dates, points, "bias", 1)
        for bound in (-limits.max_bias, limits.max_bias) if two_sided else (limits.max_bias,):
            bias.axhline(bound, color=_RED, linestyle="--", linewidth=1)
        bias.set_ylabel("bias" if two_sided else "bias, risen by", fontsize=8)
        for axes in (error, excess, bias):
            for date, version in promotions:
                axes.axvline(date, color=_GREEN, linewidth=1)
                if axes is error:
                    axes.annotate(
                        f" {version}",
                        (date, 1),
                        xycoords=("data", "axes fraction"),
                        color=_GREEN,
                        fontsize=8,
                        va="top",
                    )
        _date_axis(bias)

    return markdown(draw, "The champion over time", panels=3, height=6)


def error_matrix(matrix: AgeMatrix) -> dg.MarkdownMetadataValue:
    """Error by the period that a model was trained up to (down) and the period evaluated (across).

    Colours range over 96 of 100 rows, so that a period of few rows doesn't take them all.
    """
    import numpy as np

    trainings, errors = matrix.by_training()
    evaluated = np.flatnonzero(~np.isnan(errors).all(axis=0))
    periods = [matrix.periods[number] for number in evaluated]
    errors = errors[:, evaluated]
    cells, rows = matrix.errors[:, :, 0], matrix.rows
    known = ~np.isnan(cells)
    low, high = (
        np.quantile(cells[known], [0.02, 0.98], weights=rows[known], method="inverted_cdf")
        if known.any()
        else (0, 1)
    )

    def draw(axes: "Axes") -> None:
        if not errors.size:
            return
        shown = axes.imshow(
            errors, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        _label_some(axes, "x", periods)
        _label_some(axes, "y", trainings)
        axes.set_xlabel("period evaluated")
        axes.set_ylabel("model trained up to")
        axes.figure.colorbar(shown, ax=axes, extend="both", label=_words(matrix.metric))

    return markdown(draw, "Error by model and period", height=5.2)


def excess_by_age(
    curve: DecayCurve, window: FreshnessWindow | None, every: Every
) -> dg.MarkdownMetadataValue:
    """Excess error over the freshest model by age, where it crosses the tolerance, and the window."""
    ages = [point.age for point in curve.points]
    crossing = curve.crossing

    def draw(axes: "Axes") -> None:
        axes.fill_between(
            ages,
            [100 * point.excess.low for point in curve.points],
            [100 * point.excess.high for point in curve.points],
            color=_BLUE,
            alpha=0.2,
            linewidth=0,
            label="95 % interval",
        )
        axes.plot(
            ages,
            [100 * point.excess.estimate for point in curve.points],
            color=_BLUE,
            marker=".",
            linewidth=0,
            label="excess",
        )
        axes.plot(ages, [100 * point.fitted for point in curve.points], color=_BLUE, label="fit")
        axes.axhline(
            100 * curve.tolerance,
            color=_RED,
            linestyle="--",
            label=f"tolerance {100 * curve.tolerance:g} %",
        )
        oldest = curve.oldest or 1
        if crossing.low is not None:
            high = crossing.high if crossing.high is not None else oldest
            axes.axvspan(crossing.low, high, color=_RED, alpha=0.12, linewidth=0)
        axes.axvline(
            crossing.estimate if crossing.estimate is not None else math.nan,
            color=_RED,
            linewidth=1,
            label=_crossing_text(curve, every),
        )
        if window is not None:
            axes.axvline(
                window.periods,
                color=_GREEN,
                linewidth=1.5,
                linestyle="-" if window.known else ":",
                label=f"recommended window: {'' if window.known else 'at least '}{window.days} days",
            )
        axes.set_xlabel(f"age of the model in {every}s")
        axes.set_ylabel("excess error, %")
        axes.set_xlim(left=0)
        axes.figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")

    return markdown(draw, f"Excess {_words(curve.metric)} by age", height=4.6)


def input_drift(drift: InputDrift, *, at_most: int = 20) -> dg.MarkdownMetadataValue:
    """Share of rows that have moved by feature, the largest first, with the limit."""
    shown = drift.features[:at_most]

    def draw(axes: "Axes") -> None:
        axes.barh(
            [feature.feature for feature in shown],
            [100 * feature.effect for feature in shown],
            color=[_RED if feature.drifted else _BLUE for feature in shown],
        )
        axes.scatter(
            [100 * feature.noise for feature in shown],
            [feature.feature for feature in shown],
            marker="|",
            s=60,
            color="black",
            label="chance alone may reach",
            zorder=3,
        )
        axes.axvline(
            100 * drift.limit, color=_RED, linestyle="--", label=f"limit {100 * drift.limit:g} %"
        )
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("rows that have moved, %")
        axes.figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")

    return markdown(
        draw, "Drift of the inputs since training", height=max(2.2, 1.5 + 0.2 * len(shown))
    )


def _signal(
    axes: "Axes", dates: "np.ndarray", points: Sequence[DecayPoint], cause: Cause, scale: float
) -> None:
    """A signal with its interval; dots where it has fired, crosses where there is no verdict."""
    import numpy as np

    intervals = [point.excess if cause == "error" else point.bias for point in points]
    values = scale * np.array([of.estimate for of in intervals])
    lows = scale * np.array([of.low for of in intervals])
    highs = scale * np.array([of.high for of in intervals])
    axes.fill_between(dates, lows, highs, color=_BLUE, alpha=0.2, linewidth=0)
    axes.plot(dates, values, color=_BLUE)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    fired = np.array([cause in point.causes for point in points])
    silent = np.array([point.state == "no verdict" for point in points])
    if fired.any():
        axes.scatter(dates[fired], values[fired], s=14, color=_RED, zorder=3, label="decayed")
    if silent.any():
        axes.scatter(
            dates[silent],
            np.zeros(silent.sum()),
            s=14,
            color=_GREY,
            marker="x",
            linewidth=1,
            zorder=3,
            label="no verdict",
        )
    if fired.any() or silent.any():
        axes.legend(frameon=False, fontsize=8)


def _crossing_text(curve: DecayCurve, every: Every) -> str:
    crossing = curve.crossing
    low, high = (
        f"beyond {curve.oldest}" if bound is None else f"{bound:.1f}"
        for bound in (crossing.low, crossing.high)
    )
    if crossing.estimate is None:
        known = "" if crossing.low is None else f"; from {low} {every}s on it may be"
        return f"not reached within the data{known}"
    return f"reached at {crossing.estimate:.1f} {every}s ({low} to {high})"


def _label_some(axes: "Axes", side: str, partitions: Sequence[str]) -> None:
    """Labels at most ten of the partitions, evenly."""
    step = max(1, math.ceil(len(partitions) / 10))
    ticks = range(0, len(partitions), step)
    labels = [partitions[tick] for tick in ticks]
    if side == "x":
        axes.set_xticks(ticks, labels, rotation=45, ha="right", fontsize=8)
    else:
        axes.set_yticks(ticks, labels, fontsize=8)


def _date_axis(axes: "Axes") -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _words(metric: str) -> str:
    return metric.replace("_", " ")
