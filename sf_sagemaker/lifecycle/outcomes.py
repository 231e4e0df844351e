"""What a model said about rows that it wasn't trained on, and how that is judged.

The roles that differ between kinds of models: a `Predictor` scores rows, a `Measure` reads what it
scored, and a `Scorer` loads predictors and fits the cheap reference beside them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

REFERENCE = "reference"  # the predictor that is refitted for each period
UNKNOWN_CLASS = -1  # what a row's class is to a predictor that doesn't know it


@dataclass(frozen=True)
class Outcomes:
    """One predictor's outcomes on n rows.

    `rows` (str) identifies a row, so that two predictors' outcomes can be paired; `splits` (str) is
    the row's split. `actual` (float64) is the target, or the index of its class among those that the
    predictor knows, or UNKNOWN_CLASS. `predicted` is (n,), or (n, classes); for text it is (n, 2):
    whether the answer matched, and the completion's negative log probability in nats, with `actual` 0.
    """

    rows: "np.ndarray"
    splits: "np.ndarray"
    actual: "np.ndarray"
    predicted: "np.ndarray"

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: "np.ndarray") -> "Outcomes":
        """The rows that a mask or an array of row numbers chooses."""
        return Outcomes(
            self.rows[chosen], self.splits[chosen], self.actual[chosen], self.predicted[chosen]
        )


def concatenate(parts: "list[Outcomes]") -> Outcomes:
    """The rows of all parts, of which there must be at least one."""
    import numpy as np

    return Outcomes(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.splits for part in parts]),
        np.concatenate([part.actual for part in parts]),
        np.concatenate([part.predicted for part in parts]),
    )


def pair(first: Outcomes, second: Outcomes) -> tuple[Outcomes, Outcomes]:
    """The rows that both have, in the same order."""
    import numpy as np

    _, ours, theirs = np.intersect1d(first.rows, second.rows, return_indices=True)
    return first.take(ours), second.take(theirs)


class Measure(Protocol):
    """How outcomes are judged. `samples` are row numbers of shape (samples, rows of a sample)."""

    @property
    def metric(self) -> str:
        """The name of the metric, as configured."""
        ...

    @property
    def of_classes(self) -> bool:
        """Whether what outcomes hold as `actual` is a class."""
        ...

    def errors(self, outcomes: Outcomes, samples: "np.ndarray") -> "np.ndarray":
        """The metric as something positive of which less is better, for each sample.

        A share of which more is better (AUC, accuracy, exact match) counts as what it lacks to 1.
        NaN where a sample doesn't define it.
        """
        ...

    def biases(
        self, outcomes: Outcomes, reference: Outcomes, samples: "np.ndarray"
    ) -> "np.ndarray":
        """How far off in one direction, for each sample; both have the same rows.

        Only text needs the reference: its bias is the excess of its log loss over the reference's.
        """
        ...


class Predictor(Protocol):
    """A model, loaded or fitted."""

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        """Scores labelled rows, all of them, as `read_rows` gives them: with the column `split`."""
        ...


class Scorer(Protocol):
    """A kind of model, as evaluation sees it."""

    @property
    def measure(self) -> Measure: ...

    @property
    def held(self) -> int:
        """How many loaded models may be held in memory at once."""
        ...

    def load(self, artifact: Path) -> Predictor:
        """The model of an unpacked artifact; loading checks its golden rows."""
        ...

    def fit_reference(self, train: "pa.Table") -> Predictor:
        """A cheap model of the same target, fitted to these rows."""
        ...
