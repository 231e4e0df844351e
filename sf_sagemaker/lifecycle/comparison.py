"""Whether a challenger takes over from the champion: both on the same rows, which neither has seen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.lifecycle.intervals import Interval, bootstrap
from sf_sagemaker.lifecycle.outcomes import Measure, Outcomes, pair

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["no worse", "worse", "undecided", "too few rows", "undefined"]

_LEAST_ERROR = 1e-12  # an error of zero counts as this, so that a relative difference stays finite


@dataclass(frozen=True)
class Comparison:
    """Two predictors on the same rows.

    `difference` is (challenger - champion) / champion of their errors: below zero, the challenger is
    better. The verdict is "undefined" where the metric is NaN for one of them.
    """

    metric: str
    rows: int
    min_rows: int
    margin: float
    champion_error: float
    challenger_error: float
    difference: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Decision:
    """What becomes of a challenger; `confirm` waits for a person, and would promote."""

    kind: Literal["promote", "keep", "confirm"]
    reason: str


def compare(
    measure: Measure,
    champion: Outcomes,
    challenger: Outcomes,
    *,
    margin: float,
    min_rows: int,
    seed: int,
) -> Comparison:
    """Compares errors on the rows that both have scored; resampling draws the same rows for both.

    "no worse" means that the whole interval lies below the margin, "worse" that it lies above.
    """
    import numpy as np

    champion, challenger = pair(champion, challenger)
    rows = len(champion)
    nothing = float("nan")
    if rows < min_rows:
        difference = Interval(nothing, nothing, nothing)
        return Comparison(
            measure.metric, rows, min_rows, margin, nothing, nothing, difference, "too few rows"
        )

    def relative(samples: "np.ndarray") -> "np.ndarray":
        ours = measure.errors(champion, samples)
        return (measure.errors(challenger, samples) - ours) / np.maximum(ours, _LEAST_ERROR)

    everything = np.arange(rows)[None, :]
    difference = bootstrap(relative, rows, seed=seed)
    return Comparison(
        metric=measure.metric,
        rows=rows,
        min_rows=min_rows,
        margin=margin,
        champion_error=float(measure.errors(champion, everything)[0]),
        challenger_error=float(measure.errors(challenger, everything)[0]),
        difference=difference,
        verdict=_verdict(difference, margin),
    )


def decide(comparison: Comparison, *, due: str | None, confirm: bool) -> Decision:
    """What becomes of the challenger.

    `due` says why the champion is to be replaced, None where it isn't: then a challenger takes over
    that the comparison couldn't tell from it. A limit that somebody has set on decay or on age must
    not be undone by a lack of rows. `confirm` leaves the last word to a person.
    """
    found = _figures(comparison)
    match comparison.verdict:
        case "no worse":
            takes_over, reason = True, f"the challenger is no worse: {found}"
        case "undecided" if due:
            takes_over, reason = True, f"undecided, and {due}: {found}"
        case "undecided":
            takes_over, reason = False, f"undecided, and the champion may stay: {found}"
        case "worse":
            takes_over, reason = False, f"the challenger is worse: {found}"
        case "undefined":
            takes_over = False
            reason = f"{comparison.metric} is undefined on these {comparison.rows} rows: {found}"
        case "too few rows":
            takes_over = False
            reason = (
                f"{comparison.rows} rows that neither model was trained on, and at least "
                f"{comparison.min_rows} are needed to compare them"
            )
    if takes_over and confirm:
        return Decision("confirm", f"{reason}. A person must confirm the promotion")
    return Decision("promote" if takes_over else "keep", reason)


def _verdict(difference: Interval, margin: float) -> Verdict:
    import numpy as np

    if not np.isfinite([difference.estimate, difference.low, difference.high]).all():
        return "undefined"
    if difference.high < margin:
        return "no worse"
    return "worse" if difference.low > margin else "undecided"


def _figures(comparison: Comparison) -> str:
    difference = comparison.difference
    return (
        f"{comparison.metric} {comparison.challenger_error:.4g} against "
        f"{comparison.champion_error:.4g} on {comparison.rows} rows, {difference.estimate:+.1%} "
        f"(95 % interval {difference.low:+.1%} to {difference.high:+.1%}), margin "
        f"{comparison.margin:+.1%}"
    )
