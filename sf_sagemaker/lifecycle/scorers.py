"""The kinds of models that can be evaluated: how they are loaded, and what stands beside them.

The reference must be cheap, for it is fitted anew for each period, and find hard what the model finds
hard, so that the calendar cancels out of the ratio of their errors. Beside boosted trees that is a
small forest of the same kind; beside a language model, a model of the prompts' words.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sf_sagemaker.lifecycle.measures import NumericMeasure, TextMeasure, TextMetric
from sf_sagemaker.lifecycle.outcomes import UNKNOWN_CLASS, Outcomes, Predictor
from sf_sagemaker.lifecycle.text_baselines import NoRows, WordModel, fit_word_model
from sf_sagemaker.warehouse.dataset import DatasetSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import xgboost as xgb

    from sf_sagemaker.containers.llm.model import LanguageModel
    from sf_sagemaker.containers.xgboost.features import Feature, Target
    from sf_sagemaker.containers.xgboost.model import XGBoostModel

_ROUNDS = 60
_REFERENCE = {
    "tree_method": "hist",
    "max_depth": 5,
    "eta": 0.15,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    "nthread": 1,  # sums in another order would give another reference on another machine
    "verbosity": 0,
}
_SMALLEST_PROBABILITY = 1e-6  # of a completion that the reference never saw


@dataclass(frozen=True)
class XGBoostScorer:
    """Models of numbers or classes, trained by the container program xgboost."""

    spec: DatasetSpec
    metric: str

    @property
    def measure(self) -> NumericMeasure:
        classes = self.spec.target_kind == "class"
        return NumericMeasure(
            "classification" if classes else "regression",
            self.metric,
            positive=self.spec.target_kind == "positive",
        )

    @property
    def held(self) -> int:
        return 64

    def load(self, artifact: Path) -> Predictor:
        from sf_sagemaker.containers.xgboost.model import load_model

        return _Trees(load_model(artifact), self.spec.row_key)

    def fit_reference(self, train: "pa.Table") -> Predictor:
        """Sixty small trees, on the logarithm of a positive target.

        Raises NoRows for fewer than two rows or classes, and InvalidColumn, also for a positive
        target that isn't.
        """
        import xgboost as xgb

        from sf_sagemaker.containers.xgboost.features import encode_features, encode_target

        target = self._target(train)
        if train.num_rows < 2 or (target.classes is not None and len(target.classes) < 2):
            found = "" if target.classes is None else f" of {len(target.classes)} classes"
            raise NoRows(f"{train.num_rows} rows{found} are too few to fit a reference to")
        features = self._features(train)
        labels = encode_target(train, target)
        if target.transform == "log":
            labels = _logarithm(labels, target.name)
        booster = xgb.train(
            {**_REFERENCE, **_objective(target), "seed": self.spec.seed},
            _matrix(encode_features(train, features).T, features, labels),
            num_boost_round=_ROUNDS,
        )
        return _SmallTrees(booster, features, target, self.spec.row_key)

    def _target(self, rows: "pa.Table") -> "Target":
        import pyarrow as pa

        from sf_sagemaker.containers.xgboost.features import Target

        name, kind = self.spec.target.lower(), self.spec.target_kind
        labels = rows[name].cast(pa.string()).unique().to_pylist() if kind == "class" else None
        return Target(
            name=name,
            transform="log" if kind == "positive" else "none",
            classes=None if labels is None else tuple(sorted(labels)),
            positive=kind == "positive",
        )

    def _features(self, rows: "pa.Table") -> "tuple[Feature, ...]":
        """The dataset's features; their levels are the values that occur."""
        import pyarrow as pa

        from sf_sagemaker.containers.xgboost.features import Feature

        features = []
        for name in feature_names(self.spec, rows.column_names):
            column = rows[name]
            levels = None
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                values = column.unique().to_pylist()
                levels = tuple(sorted(value for value in values if value is not None))
            kind = "numeric" if levels is None else "categorical"
            features.append(Feature(name, kind, levels))
        return tuple(features)


@dataclass(frozen=True)
class LanguageModelScorer:
    """Fine-tuned language models. `base` names the base model where the card's name doesn't do."""

    spec: DatasetSpec
    metric: TextMetric
    base: str | None = None

    @property
    def measure(self) -> TextMeasure:
        return TextMeasure(self.metric)

    @property
    def held(self) -> int:
        return 1  # half a gigabyte each

    def load(self, artifact: Path) -> Predictor:
        from sf_sagemaker.containers.llm.model import load_model

        return _FineTuned(load_model(artifact, self.base), self.spec.row_key)

    def fit_reference(self, train: "pa.Table") -> Predictor:
        """A model of the words of the prompts. Raises NoRows."""
        words = fit_word_model(*row_texts(train))
        return _Words(words, self.spec.row_key)


def feature_names(spec: DatasetSpec, columns: Sequence[str]) -> list[str]:
    """The columns of a dataset's rows that are features, in their order."""
    if spec.features is not None:
        named = {name.lower() for name in spec.features}
        return [name for name in columns if name in named]
    others = {*spec.row_key, *spec.split_key, spec.event_time, spec.target, spec.available_at or ""}
    others = {name.lower() for name in others} | {"split"}
    return [name for name in columns if name not in others]


def row_digests(rows: "pa.Table", row_key: Sequence[str]) -> "np.ndarray":
    """Sixteen hex digits for each row, of the values of its key: text of shape (n,).

    Digests, because an evaluation is kept longer than it may be allowed to keep names.
    """
    import numpy as np
    import pyarrow as pa

    columns = [rows[name.lower()].cast(pa.string()).to_pylist() for name in row_key]
    # Lengths keep ("a", "bc") and ("ab", "c") apart.
    keys = (
        "".join("-" if value is None else f"{len(value)}:{value}" for value in key)
        for key in zip(*columns, strict=True)
    )
    digests = [hashlib.blake2b(key.encode(), digest_size=8).hexdigest() for key in keys]
    return np.array(digests, dtype="<U16")


@dataclass(frozen=True)
class _Trees:
    """A trained model of the container program."""

    model: "XGBoostModel"
    row_key: tuple[str, ...]

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        actual = _actual(rows, self.model.card.target)
        return _outcomes(rows, self.row_key, actual, self.model.predict(rows))


@dataclass(frozen=True)
class _SmallTrees:
    """A reference beside boosted trees."""

    booster: "xgb.Booster"
    features: "tuple[Feature, ...]"
    target: "Target"
    row_key: tuple[str, ...]

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        import numpy as np

        from sf_sagemaker.containers.xgboost.features import encode_features

        matrix = _matrix(encode_features(rows, self.features).T, self.features)
        predicted = np.asarray(self.booster.predict(matrix), dtype=np.float64)
        if self.target.classes is not None and len(self.target.classes) > 2:
            predicted = predicted.reshape(-1, len(self.target.classes))  # also of no rows
        if self.target.transform == "log":
            predicted = np.exp(predicted)
        return _outcomes(rows, self.row_key, _actual(rows, self.target), predicted)


@dataclass(frozen=True)
class _FineTuned:
    """A fine-tuned language model: it ranks its answers, or writes one where they are no fixed list."""

    model: "LanguageModel"
    row_key: tuple[str, ...]

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        import numpy as np

        prompts, completions = row_texts(rows)
        answers = self.model.card.answers
        if not answers:
            given = _in_batches(self.model, prompts)
            losses = self.model.completion_loss(prompts, completions)
        else:
            scores = self.model.answer_scores(prompts)
            given = [answers[i] for i in scores.argmax(axis=1)]
            index = {answer: number for number, answer in enumerate(answers)}
            actual = np.array([index.get(text, -1) for text in completions], dtype=int)
            losses = -scores[np.arange(len(prompts)), actual]
            others = np.flatnonzero(actual < 0)
            losses[others] = self.model.completion_loss(
                [prompts[i] for i in others], [completions[i] for i in others]
            )
        matched = [answer == text for answer, text in zip(given, completions, strict=True)]
        return _text_outcomes(rows, self.row_key, np.array(matched, dtype=float), losses)


@dataclass(frozen=True)
class _Words:
    """A reference beside a language model."""

    words: WordModel
    row_key: tuple[str, ...]
    answers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        index = {answer: number for number, answer in enumerate(self.words.answers)}
        object.__setattr__(self, "answers", index)

    def outcomes(self, rows: "pa.Table") -> Outcomes:
        import numpy as np

        prompts, completions = row_texts(rows)
        probabilities = self.words.probabilities(prompts)
        actual = np.array([self.answers.get(text, -1) for text in completions], dtype=int)
        chosen = probabilities[np.arange(len(prompts)), actual]
        likely = np.where(actual >= 0, chosen, 0.0)
        matched = (probabilities.argmax(axis=1) == actual).astype(float)
        losses = -np.log(np.maximum(likely, _SMALLEST_PROBABILITY))
        return _text_outcomes(rows, self.row_key, matched, losses)


def _objective(target: "Target") -> dict[str, str | int]:
    if target.classes is None:
        return {"objective": "reg:squarederror"}
    if len(target.classes) == 2:
        return {"objective": "binary:logistic"}
    return {"objective": "multi:softprob", "num_class": len(target.classes)}


def _logarithm(labels: "np.ndarray", name: str) -> "np.ndarray":
    import numpy as np

    from sf_sagemaker.containers.xgboost.features import InvalidColumn

    wrong = int((labels <= 0).sum())
    if wrong:
        raise InvalidColumn(
            f"target {name!r} is zero or negative in {wrong} of {len(labels)} rows: its logarithm "
            "needs positive values; filter those rows in dbt"
        )
    return np.log(labels)


def _matrix(
    values: "np.ndarray", features: "Sequence[Feature]", labels: "np.ndarray | None" = None
) -> "xgb.DMatrix":
    import numpy as np
    import xgboost as xgb

    return xgb.DMatrix(
        values,
        labels,
        missing=np.nan,
        feature_types=[feature.type_code for feature in features],
        enable_categorical=True,
        nthread=1,
    )


def _actual(rows: "pa.Table", target: "Target") -> "np.ndarray":
    """The target as outcomes have it. Raises MissingColumn, and InvalidColumn for a number that isn't."""
    import numpy as np
    import pyarrow as pa

    from sf_sagemaker.containers.xgboost.features import encode_target

    if target.classes is None:
        return encode_target(rows, target)
    index = {label: number for number, label in enumerate(target.classes)}
    labels = rows[target.name].cast(pa.string()).to_pylist()
    return np.array([index.get(label, UNKNOWN_CLASS) for label in labels], dtype=np.float64)


def _outcomes(
    rows: "pa.Table", row_key: Sequence[str], actual: "np.ndarray", predicted: "np.ndarray"
) -> Outcomes:
    import numpy as np

    splits = np.array(rows["split"].to_pylist(), dtype=str)
    return Outcomes(row_digests(rows, row_key), splits, actual, predicted)


def _text_outcomes(
    rows: "pa.Table", row_key: Sequence[str], matched: "np.ndarray", losses: "np.ndarray"
) -> Outcomes:
    import numpy as np

    predicted = np.stack([matched, losses], axis=1)
    return _outcomes(rows, row_key, np.zeros(len(losses)), predicted)


def row_texts(rows: "pa.Table") -> tuple[list[str], list[str]]:
    """Prompts and completions, without the white space around them, as training reads them."""
    prompts, completions = (
        [(text or "").strip() for text in rows[name].to_pylist()]
        for name in ("prompt", "completion")
    )
    return prompts, completions


def _in_batches(model: "LanguageModel", prompts: Sequence[str], size: int = 16) -> list[str]:
    starts = range(0, len(prompts), size)
    return [text for start in starts for text in model.generate(prompts[start : start + size])]
