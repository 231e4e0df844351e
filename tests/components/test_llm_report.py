"""What is said of a language model where splits of its dataset are empty."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from containers.training_container import Tables, manifest_of
from sf_sagemaker.components.attributes import Compute
from sf_sagemaker.components.autopilot import autopilot_kind
from sf_sagemaker.components.autopilot_attributes import Autopilot
from sf_sagemaker.components.llm_report import llm_kind
from sf_sagemaker.components.trained_model import ModelKind, NoTestRows, PartitionDataset
from sf_sagemaker.containers.llm.model_card import ModelCard, Sample
from sf_sagemaker.warehouse.dataset import Manifest

ROWS = pa.table({"prompt": ["retd", "shut down"] * 4, "completion": ["landing", "shutdown"] * 4})
SCORES = {"rows": 8, "completion_loss": 0.5, "completion_perplexity": 1.6, "exact_match": 0.75}


def manifest_with(tables: Tables) -> Manifest:
    return manifest_of(tables, target="completion", kind="text", classes=None)


def kinds(manifest: Manifest) -> list[ModelKind]:
    autopilot = Autopilot(accept_eula=False)
    return [
        llm_kind(manifest.spec, "completion_loss"),
        autopilot_kind(manifest.spec, autopilot, Compute()),
    ]


def test_a_dataset_without_test_rows_is_refused_before_a_job() -> None:
    manifest = manifest_with({"train": [ROWS], "validation": [ROWS], "test": [ROWS.slice(0, 0)]})
    for kind in kinds(manifest):
        with pytest.raises(
            NoTestRows, match=r"none of its 16 rows.*sample\.splits\.test"
        ) as refused:
            kind.check_dataset(manifest)
        assert refused.value.permanent
    whole = manifest_with({"train": [ROWS], "validation": [ROWS], "test": [ROWS]})
    for kind in kinds(whole):
        kind.check_dataset(whole)


class Dataset(PartitionDataset):
    """A dataset whose splits all have the same rows, in memory."""

    def split(self, name: Any, columns: Any = None) -> pa.Table:
        return ROWS


def test_validation_rows_are_not_needed(tmp_path: Path) -> None:
    manifest = manifest_with({"train": [ROWS], "validation": [ROWS.slice(0, 0)], "test": [ROWS]})
    (kind, _) = kinds(manifest)
    kind.check_dataset(manifest)
    card = ModelCard(
        model="triage", partition="2024-01-01", dataset={}, base_model={"name": "b", "digest": "d"},
        task="completion", hyperparameters={}, answers=("landing", "shutdown"), instruction="",
        max_tokens=96, steps=2, trainable_parameters=10, metrics={"test": SCORES},
        prompted_base={"test": {**SCORES, "exact_match": 0.5}}, confusion={},
        unseen_completions={}, cut_prompts={}, samples=(Sample("retd", "landing", "?", "landing"),),
        learning_curve={"train": {"step": [1, 2], "loss": [2.0, 1.0]}}, library_versions={},
        golden_rows=(), seed=0, instance_count=1,
    )  # fmt: skip
    card.write(tmp_path)
    nowhere: Any = None
    report = kind.report(tmp_path, Dataset(manifest, "", nowhere, nowhere, nowhere))
    assert report.metadata["fine_tuned_exact_match"] == 0.75
    assert not [name for name in report.metadata if name.startswith("validation_")]
    replace(card, metrics={"test": SCORES, "validation": SCORES}).write(tmp_path)
    report = kind.report(tmp_path, Dataset(manifest, "", nowhere, nowhere, nowhere))
    assert report.metadata["validation_exact_match"] == 0.75
