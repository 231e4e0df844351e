"""What a fine-tuned language model is worth, beside what one would use without it.

Three comparisons on the same held-out rows: always the commonest answer, a model of words (TF-IDF
and logistic regression), and the base model told the list of answers.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from sf_sagemaker.components import plots
from sf_sagemaker.components.trained_model import (
    CHECK,
    ModelKind,
    PartitionDataset,
    Report,
    check_test_rows,
)
from sf_sagemaker.lifecycle.measures import TextMetric
from sf_sagemaker.lifecycle.scorers import LanguageModelScorer
from sf_sagemaker.lifecycle.text_baselines import (
    fit_constant_answer,
    fit_word_model,
    score_answers,
)
from sf_sagemaker.warehouse.dataset import DatasetSpec

if TYPE_CHECKING:
    from sf_sagemaker.containers.llm.model_card import ModelCard

Scores = Mapping[str, Mapping[str, float]]

_COLUMNS = ("prompt", "completion")


def llm_kind(spec: DatasetSpec, metric: TextMetric) -> ModelKind:
    """A fine-tuned language model as a kind of model, for datasets of that specification."""
    return ModelKind(
        asset_name="fine_tuned_llm",
        program="llm",
        kinds=frozenset({"huggingface", "pytorch", "sagemaker"}),
        check_description="On the test split, the model gives the right answer more often than the "
        "commonest answer is right, and than the base model that is told the answers.",
        check_dataset=check_test_rows,
        report=_report,
        scorer=LanguageModelScorer(spec, metric),
    )


def _report(artifact: Path, dataset: PartitionDataset) -> Report:
    from sf_sagemaker.containers.llm.model_card import ModelCard

    card = ModelCard.read(artifact)
    train, test = (dataset.split(split, _COLUMNS).to_pydict() for split in ("train", "test"))
    comparisons: dict[str, Mapping[str, float]] = {
        "fine_tuned": card.metrics["test"],
        "prompted_base": card.prompted_base["test"],
    }
    for name, baseline in (
        ("commonest_answer", fit_constant_answer(train["completion"])),
        ("word_model", fit_word_model(train["prompt"], train["completion"])),
    ):
        comparisons[name] = score_answers(baseline, test["prompt"], test["completion"])
    return Report(_metadata(card, comparisons), _verdict(comparisons))


def _verdict(comparisons: Scores) -> dg.AssetCheckResult:
    right = {name: scores["exact_match"] for name, scores in comparisons.items()}
    beaten = max(right["commonest_answer"], right["prompted_base"])
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=right["fine_tuned"] > beaten,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={**right, "rows": int(comparisons["fine_tuned"]["rows"])},
    )


def _metadata(card: "ModelCard", comparisons: Scores) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "scores": _table(comparisons),
        "answers": ", ".join(card.answers) or "free text",
        "samples": _samples(card),
        "steps": card.steps,
        "trainable_parameters": card.trainable_parameters,
        "learning_curve": plots.loss_by_step(card.learning_curve),
        "model_card": dg.MetadataValue.json(_summary(card)),
    }
    confusion = card.confusion.get("test")
    if confusion:
        metadata["confusion_matrix"] = plots.confusion_matrix(
            confusion["actual"], confusion["given"], confusion["counts"]
        )
    # Without validation rows there are no figures of theirs.
    for name, scores in {**comparisons, "validation": card.metrics.get("validation", {})}.items():
        metadata |= {f"{name}_{metric}": value for metric, value in scores.items()}
    for split, unseen in card.unseen_completions.items():
        metadata[f"{split}_rows_of_unseen_answers"] = sum(unseen.values())
    return metadata


def _table(comparisons: Scores) -> dg.MarkdownMetadataValue:
    lines = ["| test split | right answers | log loss | perplexity |", "|---|---|---|---|"]
    for name, scores in comparisons.items():
        log_loss = scores.get("answer_log_loss", scores.get("log_loss"))
        perplexity = scores.get("completion_perplexity")
        cells = [
            f"{100 * scores['exact_match']:.1f} %",
            "" if log_loss is None else f"{log_loss:.3f}",
            "" if perplexity is None else f"{perplexity:,.2f}",
        ]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return dg.MetadataValue.md("\n".join(lines))


def _samples(card: "ModelCard") -> dg.TableMetadataValue:
    """Ten prompts of the test split, with what the base and the fine-tuned model write."""
    return dg.MetadataValue.table([dg.TableRecord(asdict(sample)) for sample in card.samples])


def _summary(card: "ModelCard") -> dict[str, Any]:
    """The card without what has a place of its own, or is too long to read."""
    content = asdict(card)
    for shown_elsewhere in ("learning_curve", "samples", "golden_rows"):
        del content[shown_elsewhere]
    return content
