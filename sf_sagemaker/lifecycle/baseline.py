"""The baseline that every model must beat: what one would answer without a model.

A numeric target is answered with the median of the train split, by the values of one column where
one is named; a class target with the rates of the classes, likewise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Baseline:
    """Answers by group; `overall` answers for a group that the train split doesn't have.

    An answer is a number for a numeric target, and a share for each class, in order, otherwise.
    """

    by: str | None
    answers: Mapping[Any, "np.ndarray"]
    overall: "np.ndarray"

    def predict(self, rows: "pa.Table") -> "np.ndarray":
        """The answers for rows: shape (n,), or (n, classes) for more than two classes.

        For two classes it is the share of the second one, as a binary model's prediction is.
        """
        import numpy as np

        groups = rows[self.by].to_pylist() if self.by else [None] * rows.num_rows
        chosen = [self.answers.get(group, self.overall) for group in groups]
        answers = np.array(chosen).reshape(len(groups), len(self.overall))
        if answers.shape[1] == 1:
            return answers[:, 0]
        return answers[:, 1] if answers.shape[1] == 2 else answers


def fit_baseline(
    train: "pa.Table", target: str, *, by: str | None, classes: Sequence[str] | None
) -> Baseline:
    """The baseline of a train split. `by` must be a column of it, or None for one answer to all."""
    import pandas as pd

    columns = [target] if by is None else [by, target]
    frame = train.select(list(dict.fromkeys(columns))).to_pandas(integer_object_nulls=True)

    def answer(values: "pd.Series") -> "np.ndarray":
        import numpy as np

        if classes is None:
            return np.array([values.median()], dtype=float)
        return (
            values.astype(str)
            .value_counts(normalize=True)
            .reindex(list(classes), fill_value=0)
            .to_numpy()
        )

    answers = (
        {group: answer(part[target]) for group, part in frame.groupby(by)} if by is not None else {}
    )
    return Baseline(by=by, answers=answers, overall=answer(frame[target]))
