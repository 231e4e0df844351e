"""Drift of a model's inputs: how the features of recent rows differ from those it was trained on.

Labels may be late, inputs are not. What is measured is an effect size and no p-value, which would
call any difference drift once there are rows enough: the share of rows that have moved. For numbers
that is the Kolmogorov-Smirnov distance, for categories the total variation distance; both lie between
0 and 1, and don't depend on units. Few rows differ by chance, the more so the more categories there
are: permuting which rows are recent says by how much.

The libraries for this were no help: Evidently, for one, judges by p-values up to 1,000 rows and beyond
them by distances with a fixed limit, which leaves nothing for chance.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sf_sagemaker.errors import SfSagemakerError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

LIMIT = 0.1  # a shift by a quarter of a standard deviation moves a tenth of normal values

_PERMUTATIONS = 300
_CERTAINTY = 0.99
_AT_MOST = 20_000  # rows of either side; more would move an effect by some 0.01


class UnknownFeature(SfSagemakerError):
    """A feature that the rows don't have, or one to be ignored that is none."""


@dataclass(frozen=True)
class FeatureDrift:
    """How one feature has moved.

    `effect` is the share of rows that have moved, less what chance moves on average; `noise` is what
    chance may move beyond that. Missing values count as a value of their own; `missing_before`,
    `missing_now` and `unseen` are shares of rows, the last of recent ones whose category the
    training rows don't have. `before` and `now` say what is typical: a median, or the category that
    has gained or lost most with its share.

    Where the recent values have a type that the feature's kind doesn't take, all rows have moved:
    `effect` is 1, and `before` and `now` are the types.
    """

    feature: str
    kind: str
    effect: float
    noise: float
    missing_before: float
    missing_now: float
    unseen: float
    before: str
    now: str
    drifted: bool


@dataclass(frozen=True)
class InputDrift:
    """All features, the one that has moved most first.

    No features where there is no verdict, or where the recent rows can't be read.
    """

    state: Literal["steady", "drifted", "no verdict"]
    reason: str
    limit: float
    training_rows: int
    recent_rows: int
    features: tuple[FeatureDrift, ...]
    ignored: tuple[str, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """The names of the features that have moved by more than the limit."""
        return tuple(feature.feature for feature in self.features if feature.drifted)


def measure_drift(
    training: "pa.Table",
    recent: "pa.Table",
    features: Iterable[tuple[str, str]],
    *,
    ignored: Collection[str] = (),
    limit: float = LIMIT,
    min_rows: int = 50,
    seed: int = 0,
) -> InputDrift:
    """Compares recent rows with training rows, by features given as (name, kind).

    A feature has drifted when its effect reaches `limit` and is greater than chance explains: in 99
    of 100 permutations no feature at all goes so far. Free text is compared by its length. A feature
    whose recent type can't be read as its kind has drifted whatever its values are.
    `ignored` features move by design, as a month or a price level does. Fewer than `min_rows` on
    either side give no verdict. Large tables are sampled.

    Raises UnknownFeature.
    """
    kinds = dict(features)
    _check_names(kinds, ignored, training.column_names, recent.column_names)
    rows = training.num_rows, recent.num_rows
    watched = [name for name in kinds if name not in ignored]
    if min(rows) < min_rows or not watched:
        reason = (
            f"too few rows: {rows[0]:,} training and {rows[1]:,} recent ones, of at least {min_rows:,}"
            if watched
            else "every feature is ignored"
        )
        return InputDrift("no verdict", reason, limit, *rows, (), tuple(ignored))

    types = {name: (training.field(name).type, recent.field(name).type) for name in watched}
    changed = [name for name in watched if not _is_readable(types[name][1], kinds[name])]
    compared = {name: kinds[name] for name in watched if name not in changed}
    measured = _measured(training, recent, compared, limit, seed)
    moved = ["{} (its type changed from {} to {})".format(name, *types[name]) for name in changed]
    moved += [
        f"{feature.feature} ({feature.effect:.2f})" for feature in measured if feature.drifted
    ]
    measured = [
        *(_of_another_type(training, recent, name, kinds[name]) for name in changed),
        *measured,
    ]
    reason = (
        f"{len(moved)} of {len(measured)} features have moved by {limit:g} or more: "
        + ", ".join(moved)
        if moved
        else f"no feature of {len(measured)} has moved by {limit:g} or more"
    )
    state = "drifted" if moved else "steady"
    return InputDrift(state, reason, limit, *rows, tuple(measured), tuple(ignored))


def _of_another_type(
    training: "pa.Table", recent: "pa.Table", name: str, kind: str
) -> FeatureDrift:
    return FeatureDrift(
        feature=name,
        kind=kind,
        effect=1.0,
        noise=0.0,
        missing_before=_share_missing(training, name),
        missing_now=_share_missing(recent, name),
        unseen=0.0,
        before=f"type {training.field(name).type}",
        now=f"type {recent.field(name).type}",
        drifted=True,
    )


def _measured(
    training: "pa.Table", recent: "pa.Table", kinds: Mapping[str, str], limit: float, seed: int
) -> list[FeatureDrift]:
    """The features by name and kind, the one that has moved most first."""
    import numpy as np

    if not kinds:
        return []
    random = np.random.default_rng(seed)
    training, recent = (_sampled(table, random) for table in (training, recent))
    recents = _memberships(training.num_rows, recent.num_rows, random)
    columns = [
        (_categories if kind == "categorical" else _numbers)(
            _comparable(training, name, kind), _comparable(recent, name, kind)
        )
        for name, kind in kinds.items()
    ]
    distances = np.stack([column.distances(recents) for column in columns])
    noise = _noise(distances[:, 1:])
    effects = distances[:, 0] - distances[:, 1:].mean(axis=1)
    measured = [
        FeatureDrift(
            feature=name,
            kind=kinds[name],
            effect=max(0.0, float(effect)),
            noise=float(chance),
            missing_before=_share_missing(training, name),
            missing_now=_share_missing(recent, name),
            unseen=column.unseen,
            before=column.before,
            now=column.now,
            drifted=bool(effect >= limit and effect > chance),
        )
        for name, column, effect, chance in zip(kinds, columns, effects, noise, strict=True)
    ]
    return sorted(measured, key=lambda feature: -feature.effect)


@dataclass(frozen=True)
class _Column:
    """A feature of the training rows and the recent ones, as the order of its values.

    `order` sorts the rows, training rows first, by value; `ends` are the positions in that order
    where a run of equal values ends. For categories that order means nothing.
    """

    order: "np.ndarray"
    ends: "np.ndarray"
    ordinal: bool
    unseen: float
    before: str
    now: str

    def distances(self, recents: "np.ndarray") -> "np.ndarray":
        """The distance for each way to tell recent rows from others: shape (ways, rows), boolean."""
        import numpy as np

        return np.array([self._distance(recent[self.order]) for recent in recents])

    def _distance(self, recent: "np.ndarray") -> float:
        import numpy as np

        counts = np.cumsum(recent)[self.ends]
        others = self.ends + 1 - counts
        shares = counts / counts[-1] - others / others[-1]
        if self.ordinal:
            return float(np.abs(shares).max())
        return float(np.abs(np.diff(shares, prepend=0)).sum()) / 2


def _numbers(training: "pa.ChunkedArray", recent: "pa.ChunkedArray") -> _Column:
    """A missing value is a value below all others, so that more of them are a distance too."""
    import numpy as np

    before, now = (_floats(values) for values in (training, recent))
    values = np.concatenate([before, now])
    values = np.where(np.isnan(values), -np.inf, values)
    order = np.argsort(values, kind="stable")
    medians = [
        f"median {np.nanmedian(of):.4g}" if not np.isnan(of).all() else "all missing"
        for of in (before, now)
    ]
    return _Column(order, _ends(values[order]), True, 0.0, *medians)


def _categories(training: "pa.ChunkedArray", recent: "pa.ChunkedArray") -> _Column:
    import numpy as np

    before, now = (
        np.array(values.fill_null("(missing)").to_pylist()) for values in (training, recent)
    )
    levels, codes = np.unique(np.concatenate([before, now]), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    shares = np.stack(
        [
            np.bincount(codes[: len(before)], minlength=len(levels)) / len(before),
            np.bincount(codes[len(before) :], minlength=len(levels)) / len(now),
        ]
    )
    unseen = float(shares[1, shares[0] == 0].sum())
    most = int(np.argmax(np.abs(shares[1] - shares[0])))
    texts = [f"{levels[most]}: {share[most]:.1%}" for share in shares]
    return _Column(order, _ends(codes[order]), False, unseen, *texts)


def _ends(ordered: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


def _floats(values: "pa.ChunkedArray") -> "np.ndarray":
    import pyarrow as pa

    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _comparable(table: "pa.Table", name: str, kind: str) -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "categorical":
        return table[name].cast(pa.string())
    return pc.call_function("utf8_length", [table[name]]) if kind == "text" else table[name]


def _is_readable(found: "pa.DataType", kind: str) -> bool:
    """Whether values of a type can be those of a feature of that kind, to a model as well."""
    import pyarrow as pa

    types = pa.types
    if kind == "categorical":
        return not types.is_nested(found)
    if kind == "text":
        return types.is_string(found) or types.is_large_string(found)
    return (
        types.is_integer(found)
        or types.is_floating(found)
        or types.is_boolean(found)
        or types.is_decimal(found)
        or types.is_null(found)
    )


def _share_missing(table: "pa.Table", name: str) -> float:
    return float(table[name].is_null(nan_is_null=True).to_numpy().mean())


def _sampled(table: "pa.Table", random: "np.random.Generator") -> "pa.Table":
    import numpy as np

    if table.num_rows <= _AT_MOST:
        return table
    return table.take(np.sort(random.choice(table.num_rows, _AT_MOST, replace=False)))


def _memberships(training: int, recent: int, random: "np.random.Generator") -> "np.ndarray":
    """Which rows are recent, in truth and then permuted: boolean, (1 + permutations, rows)."""
    import numpy as np

    truth = np.arange(training + recent) >= training
    return np.stack([truth, *(random.permutation(truth) for _ in range(_PERMUTATIONS))])


def _noise(permuted: "np.ndarray") -> "np.ndarray":
    """What chance moves each feature beyond its mean, so rarely that hardly any of them goes so far.

    The quantile is of the greatest standardised distance over all features of a permutation
    (Westfall and Young, 1993), which minds that many features are looked at, and alike.
    """
    import numpy as np

    deviations = permuted - permuted.mean(axis=1, keepdims=True)
    spreads = permuted.std(axis=1)
    scale = np.where(spreads > 0, spreads, 1)
    greatest = (deviations / scale[:, None]).max(axis=0)
    return np.quantile(greatest, _CERTAINTY) * spreads


def _check_names(
    kinds: Collection[str],
    ignored: Collection[str],
    training: Sequence[str],
    recent: Sequence[str],
) -> None:
    for what, there in (("training", training), ("recent", recent)):
        missing = sorted(set(kinds) - set(there))
        if missing:
            raise UnknownFeature(
                f"the {what} rows have no {', '.join(missing)}: they have {', '.join(sorted(there))}"
            )
    unknown = sorted(set(ignored) - set(kinds))
    if unknown:
        raise UnknownFeature(
            f"{', '.join(unknown)} can't be ignored, being no feature of the model: its features are "
            + ", ".join(sorted(kinds))
        )
