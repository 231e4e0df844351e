"""What a trained XGBoost model is worth: its scores beside the baseline's, its curve, its card."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from sf_sagemaker.components import plots
from sf_sagemaker.components.errors import suggest
from sf_sagemaker.components.trained_model import CHECK, ModelKind, PartitionDataset, Report
from sf_sagemaker.containers.metrics import METRICS
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.baseline import Baseline, fit_baseline
from sf_sagemaker.lifecycle.scorers import XGBoostScorer
from sf_sagemaker.lifecycle.scores import Scores, score
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest

if TYPE_CHECKING:
    from sf_sagemaker.containers.xgboost.model_card import ModelCard


class BaselineColumnMissing(SfSagemakerError):
    """A dataset without the column whose groups the baseline answers for."""


@dataclass(frozen=True)
class Judgement:
    """How a model is judged: the metric that counts, and the groups that the baseline answers for."""

    metric: str
    baseline_by: str | None

    def check_dataset(self, manifest: Manifest) -> None:
        """Raises BaselineColumnMissing where the dataset doesn't have the baseline's column."""
        columns = [column.name for column in manifest.columns]
        if self.baseline_by is not None and self.baseline_by.lower() not in columns:
            raise BaselineColumnMissing(
                f"evaluation.baseline_by is {self.baseline_by!r}, which is no column of the dataset of "
                f"{manifest.model} for {manifest.partition}. {suggest(self.baseline_by, columns)}"
            )

    def report(self, artifact: Path, dataset: PartitionDataset) -> Report:
        """Scores the model on validation, test and the next period's rows. Loading it checks it."""
        from sf_sagemaker.containers.xgboost.model import load_model

        model, baseline = load_model(artifact), self._baseline(dataset)
        target = dataset.manifest.target
        rows = {
            "validation": dataset.split("validation"),
            "test": dataset.split("test"),
            "next_period": dataset.next_period(),
        }
        scores = {
            name: score(
                model,
                baseline,
                table,
                target.name,
                classes=target.classes,
                positive=target.kind == "positive",
            )
            for name, table in rows.items()
            if table is not None
        }
        return Report(_metadata(model.card, scores, self.metric), self._verdict(scores["test"]))

    def _baseline(self, dataset: PartitionDataset) -> Baseline:
        target = dataset.manifest.target
        by = self.baseline_by.lower() if self.baseline_by else None
        columns = [target.name] if by is None else [target.name, by]
        train = dataset.split("train", columns)
        return fit_baseline(train, target.name, by=by, classes=target.classes)

    def _verdict(self, scores: Scores) -> dg.AssetCheckResult:
        model, baseline = (f.get(self.metric) for f in (scores.model, scores.baseline))
        if model is None or baseline is None:
            return dg.AssetCheckResult(
                check_name=CHECK,
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"reason": f"{self.metric} is not defined on these {scores.rows} rows"},
            )
        loss = METRICS[self.metric].loss
        return dg.AssetCheckResult(
            check_name=CHECK,
            passed=loss(model) < loss(baseline),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "metric": self.metric,
                "model": model,
                "baseline": baseline,
                "rows": scores.rows,
            },
        )


def xgboost_kind(judgement: Judgement, spec: DatasetSpec) -> ModelKind:
    """XGBoost as a kind of model, for datasets of that specification."""
    return ModelKind(
        asset_name="trained_xgboost_model",
        program="xgboost",
        kinds=frozenset({"xgboost", "sagemaker"}),
        check_description=f"On the test split, the model's {judgement.metric} is better than the "
        "baseline's.",
        check_dataset=judgement.check_dataset,
        report=judgement.report,
        scorer=XGBoostScorer(spec, judgement.metric),
    )


def _metadata(card: "ModelCard", scores: Mapping[str, Scores], metric: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "scores": _table(scores, metric),
        "rounds": card.rounds["best"],
        "learning_curve": plots.learning_curve(card.learning_curve, card.rounds["best"]),
        "feature_importance": plots.feature_importance(card.feature_importance),
        "model_card": dg.MetadataValue.json(_summary(card)),
    }
    for rows, figures in scores.items():
        metadata[f"{rows}_rows"] = figures.rows
        metadata[f"{rows}_rows_of_unknown_classes"] = figures.unscored
        metadata |= {f"{rows}_{name}": value for name, value in figures.model.items()}
        metadata |= {f"{rows}_baseline_{name}": value for name, value in figures.baseline.items()}
    if "next_period" not in scores:
        metadata["next_period"] = "has not landed"
    return metadata


def _summary(card: "ModelCard") -> dict[str, Any]:
    """The card without what has a place of its own, or is too long to read."""
    content = asdict(card)
    for shown_elsewhere in ("learning_curve", "feature_importance", "golden_rows"):
        del content[shown_elsewhere]
    content["features"] = [feature.name for feature in card.features]
    return content


def _table(scores: Mapping[str, Scores], metric: str) -> dg.MarkdownMetadataValue:
    """The metric that counts on each set of rows; short enough for the UI to show it inline."""
    lines = [f"| {metric.replace('_', ' ')} | model | baseline | rows |", "|---|---|---|---|"]
    for rows, figures in scores.items():
        model, baseline = (f.get(metric, math.nan) for f in (figures.model, figures.baseline))
        lines.append(
            f"| {rows.replace('_', ' ')} | {model:.4g} | {baseline:.4g} | {figures.rows:,} |"
        )
    return dg.MetadataValue.md("\n".join(lines))
