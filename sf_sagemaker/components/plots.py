"""Plots for asset metadata: PNG, readable at the size at which Dagster's UI shows them."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import dagster as dg

_SIZE = (7.0, 3.6)  # inches; at 110 dpi the width of the UI's metadata pane
_DPI = 110


def target_distribution(
    values: Sequence[float], name: str, *, log: bool
) -> dg.MarkdownMetadataValue:
    """Histogram of a numeric target; on a logarithmic axis where the model trains on logarithms."""
    import numpy as np

    array = np.asarray(values, dtype=float)
    bins = np.geomspace(array.min(), array.max(), 51) if log else 50

    def draw(axes) -> None:
        axes.hist(array, bins=bins, color="#4f6bd8")
        axes.axvline(
            float(np.median(array)), color="#d9480f", label=f"median {np.median(array):,.4g}"
        )
        if log:
            axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_ylabel("rows")
        axes.legend(frameon=False)

    return markdown(draw, f"Distribution of {name}")


def class_distribution(counts: Mapping[str, int], name: str) -> dg.MarkdownMetadataValue:
    """Rows by class of a target."""

    def draw(axes) -> None:
        axes.barh(list(counts), list(counts.values()), color="#4f6bd8")
        axes.invert_yaxis()
        axes.set_xlabel("rows")

    return markdown(draw, f"Rows by {name}")


def learning_curve(
    curve: Mapping[str, Mapping[str, Sequence[float]]], best_round: int
) -> dg.MarkdownMetadataValue:
    """Evaluation metric by boosting round, one line a split. `curve` is {split: {metric: values}}."""

    def draw(axes) -> None:
        for split, metrics in curve.items():
            for metric, values in metrics.items():
                axes.plot(range(1, len(values) + 1), values, label=f"{split} {metric}")
        axes.axvline(best_round, color="#868e96", linestyle=":", label=f"best round {best_round}")
        axes.set_xlabel("boosting round")
        axes.set_yscale("log")
        axes.legend(frameon=False)

    return markdown(draw, "Learning curve")


def feature_importance(
    shares: Mapping[str, float], *, at_most: int = 15
) -> dg.MarkdownMetadataValue:
    """Share of the total gain by feature, the largest first."""
    largest = sorted(shares.items(), key=lambda item: -item[1])[:at_most]

    def draw(axes) -> None:
        axes.barh(
            [name for name, _ in largest], [100 * share for _, share in largest], color="#4f6bd8"
        )
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("share of total gain, %")

    return markdown(draw, "Feature importance")


def loss_by_step(curve: Mapping[str, Mapping[str, Sequence[float]]]) -> dg.MarkdownMetadataValue:
    """Loss in nats by training step. `curve` is {split: {"step": steps, "loss": losses}}."""

    def draw(axes) -> None:
        for split, values in curve.items():
            axes.plot(values["step"], values["loss"], marker=".", label=split)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats a token")
        axes.legend(frameon=False)

    return markdown(draw, "Loss while training")


def confusion_matrix(
    actual: Sequence[str], given: Sequence[str], counts: Sequence[Sequence[int]]
) -> dg.MarkdownMetadataValue:
    """Rows by actual answer (down) and answer given (across); shades are shares of a row."""
    import numpy as np

    matrix = np.asarray(counts)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    def draw(axes) -> None:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(given)), given)
        axes.set_yticks(range(len(actual)), actual)
        axes.set_xlabel("answer given")
        axes.set_ylabel("actual answer")
        for (row, column), count in np.ndenumerate(matrix):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)

    return markdown(draw, "Answers given on the test split")


def markdown(
    draw: Callable, title: str, *, panels: int = 1, height: float = _SIZE[1]
) -> dg.MarkdownMetadataValue:
    """Draws on fresh axes, away from pyplot's global state, and embeds the PNG as Markdown.

    `draw` gets the axes of each panel, from the top down; they share the horizontal axis. `height`
    is that of the whole picture, in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], height), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(title)
    draw(*axes)
    buffer = io.BytesIO()
    canvas.print_png(buffer)  # Figure.savefig would draw it twice
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{encoded})")
