"""What a model of Autopilot's is worth: its own metrics, and its answers beside two baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from sf_sagemaker.components.trained_model import CHECK, PartitionDataset, Report
from sf_sagemaker.lifecycle.answers import AnswerScorer
from sf_sagemaker.lifecycle.scorers import row_texts
from sf_sagemaker.lifecycle.text_baselines import (
    TextBaseline,
    fit_constant_answer,
    fit_word_model,
)
from sf_sagemaker.training.autopilot_candidate import Candidate

_COLUMNS = ("prompt", "completion")
_SAMPLES = 10
_NOT_EVALUATED = (
    "Completion loss and perplexity on held-out rows, and the untuned base model: the model's containers "
    "give text and no probabilities. Those that Autopilot measured itself are candidate metrics."
)


def autopilot_report(scorer: AnswerScorer, artifact: Path, dataset: PartitionDataset) -> Report:
    """Asks the model of a candidate for its answers to the test split.

    Raises CannotAsk, and what asking raises.
    """
    candidate = Candidate.read(artifact)
    train, test = (row_texts(dataset.split(split, _COLUMNS)) for split in ("train", "test"))
    prompts, completions = test
    given: dict[str, Sequence[str]] = {"fine_tuned": scorer.asking(artifact)(prompts)}
    baselines: dict[str, TextBaseline] = {
        "commonest_answer": fit_constant_answer(train[1]),
        "word_model": fit_word_model(*train),
    }
    given |= {name: baseline.predict(prompts) for name, baseline in baselines.items()}
    right = {name: _share(answers, completions) for name, answers in given.items()}
    return Report(
        {**_scores(right, given, prompts, completions), **_candidate(candidate)},
        dg.AssetCheckResult(
            check_name=CHECK,
            passed=right["fine_tuned"] > right["commonest_answer"],
            severity=dg.AssetCheckSeverity.WARN,
            metadata={**right, "rows": len(prompts)},
        ),
    )


def _share(answers: Sequence[str], completions: Sequence[str]) -> float:
    pairs = zip(answers, completions, strict=True)
    return sum(answer == completion for answer, completion in pairs) / len(completions)


def _scores(
    right: Mapping[str, float],
    given: Mapping[str, Sequence[str]],
    prompts: Sequence[str],
    completions: Sequence[str],
) -> dict[str, Any]:
    lines = ["| test split | right answers |", "|---|---|"]
    lines += [
        f"| {name.replace('_', ' ')} | {100 * share:.1f} % |" for name, share in right.items()
    ]
    samples = zip(prompts, completions, given["fine_tuned"], strict=True)
    return {
        "scores": dg.MetadataValue.md("\n".join(lines)),
        "not_evaluated": _NOT_EVALUATED,
        "samples": dg.MetadataValue.table(
            [
                dg.TableRecord({"prompt": prompt, "completion": completion, "answer": answer})
                for prompt, completion, answer in list(samples)[:_SAMPLES]
            ]
        ),
        **{f"{name}_exact_match": share for name, share in right.items()},
        "test_rows": len(prompts),
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    """What Autopilot says of its candidate. Figures have the API's names, in lower case."""
    metadata: dict[str, Any] = {
        "base_model": candidate.base_model,
        "candidate": candidate.name,
        "inference_containers": dg.MetadataValue.table(
            [
                dg.TableRecord({"image": one.image, "model_data": one.model_data_url})
                for one in candidate.containers
            ]
        ),
    }
    if candidate.steps:
        metadata["candidate_steps"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"type": step.type, "name": step.name, "arn": step.arn})
                for step in candidate.steps
            ]
        )
    if candidate.metrics:
        metadata["candidate_metrics"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {"metric": one.name, "dataset": one.dataset or "", "value": one.value}
                )
                for one in candidate.metrics
            ]
        )
    for metric in candidate.metrics:
        parts = ["candidate", (metric.dataset or "").lower(), _snake_case(metric.name)]
        metadata["_".join(filter(None, parts))] = metric.value
    return metadata


def _snake_case(name: str) -> str:
    """ValidationLoss as validation_loss, Rouge1 as rouge1, RougeLSum as rouge_lsum."""
    parts = [
        f"_{letter}" if letter.isupper() and number and not name[number - 1].isupper() else letter
        for number, letter in enumerate(name)
    ]
    return "".join(parts).lower()
