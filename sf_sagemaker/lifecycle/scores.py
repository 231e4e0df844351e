"""What a model is worth on some rows, beside the baseline on the same rows: every metric at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sf_sagemaker.containers.metrics import Task, evaluate
from sf_sagemaker.lifecycle.baseline import Baseline

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Model(Protocol):
    """Something that predicts: (n,) for numbers and two classes, (n, classes) for more."""

    def predict(self, table: "pa.Table") -> "np.ndarray": ...


@dataclass(frozen=True)
class Scores:
    """Metrics by name, of a model and of its baseline, on the same rows.

    `unscored` rows have a class that the model doesn't know. Without rows there are no metrics.
    """

    rows: int
    unscored: int
    model: Mapping[str, float]
    baseline: Mapping[str, float]


def score(
    model: Model,
    baseline: Baseline,
    rows: "pa.Table",
    target: str,
    *,
    classes: Sequence[str] | None,
    positive: bool = False,
) -> Scores:
    """Scores a model and a baseline on labelled rows; a class target is scored by class index.

    Rows of a class that `classes` doesn't have can't be scored and are counted apart. `positive` says
    that the target is positive by definition, which decides how bias is measured.
    """
    import numpy as np

    task: Task = "regression" if classes is None else "classification"
    given = rows.num_rows
    if classes is None:
        actual = rows[target].to_numpy()
    else:
        index = {label: number for number, label in enumerate(classes)}
        actual = np.array([index.get(label, -1) for label in rows[target].to_pylist()])
        rows, actual = rows.filter(actual >= 0), actual[actual >= 0]
    unscored = given - rows.num_rows
    if not rows.num_rows:
        return Scores(0, unscored, {}, {})
    figures = [
        evaluate(task, actual, predictor.predict(rows), positive=positive)
        for predictor in (model, baseline)
    ]
    return Scores(rows.num_rows, unscored, *figures)
