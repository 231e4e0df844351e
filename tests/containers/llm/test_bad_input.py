"""What can't be trained on: a clear error, or a stated handling."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from containers.llm.conftest import with_column
from sf_sagemaker.containers.environment import Stopped, StopSignal
from sf_sagemaker.containers.hyperparameters import InvalidHyperparameter
from sf_sagemaker.containers.llm.base_model import BaseModelMissing
from sf_sagemaker.containers.llm.examples import InvalidExamples, OverlongCompletion
from sf_sagemaker.containers.llm.hyperparameters import parse_hyperparameters
from sf_sagemaker.containers.llm.train import ConstantCompletion, OneHostOnly
from sf_sagemaker.containers.llm.tuning import DivergedTraining, UnsuitableBaseModel
from sf_sagemaker.containers.manifest import IncompleteDataset
from sf_sagemaker.containers.shards import CorruptShard, MissingColumn

QUICK = {"epochs": 0.05}


def test_an_empty_completion_is_counted(new_job, reports):
    completions = reports["train"][0]["completion"].to_pylist()
    completions[3:6] = ["", None, "  "]
    job = new_job(with_column(reports, "train", "completion", completions))
    with pytest.raises(InvalidExamples, match="of 240 rows of the split train, 3 an empty compl"):
        job.train()


def test_an_empty_prompt_is_counted(new_job, reports):
    prompts = reports["test"][0]["prompt"].to_pylist()
    prompts[0] = " "
    job = new_job(with_column(reports, "test", "prompt", prompts))
    with pytest.raises(InvalidExamples, match="of 40 rows of the split test, 1 an empty prompt"):
        job.train()


def test_a_completion_must_be_text(new_job, reports):
    job = new_job({split: [_numbered(t) for t in reports[split]] for split in reports})
    with pytest.raises(InvalidExamples, match="'completion' is int64, expected text"):
        job.train()


def _numbered(table: pa.Table) -> pa.Table:
    return table.set_column(2, "completion", pa.array(range(table.num_rows)))


def test_a_missing_column_is_named(new_job, reports):
    job = new_job({split: [t.drop_columns("prompt") for t in reports[split]] for split in reports})
    with pytest.raises(MissingColumn, match="lacks the columns prompt: it has report_id, compl"):
        job.train()


def test_a_truncated_shard_is_named(new_job, reports):
    job = new_job(reports)
    (shard,) = job.container.data("test").rglob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CorruptShard, match=r"part-0\.parquet is not a whole Parquet file"):
        job.train()


def test_a_missing_shard_is_noticed(new_job, reports):
    job = new_job(reports)
    next(job.container.data("test").rglob("*.parquet")).unlink()
    with pytest.raises(IncompleteDataset, match="240 train, 40 validation, 0 test rows, and the "):
        job.train()


def test_a_dataset_without_training_rows_is_refused(new_job, reports):
    job = new_job({**reports, "train": [reports["train"][0].slice(0, 0)]})
    with pytest.raises(IncompleteDataset, match="no training rows: widen its window"):
        job.train()


def test_a_constant_completion_is_refused(new_job, reports):
    job = new_job(with_column(reports, "train", "completion", ["landing"] * 240))
    with pytest.raises(ConstantCompletion, match="is 'landing' in every training row"):
        job.train()


def test_held_out_splits_may_be_empty(new_job, reports):
    nothing = reports["test"][0].slice(0, 0)
    job = new_job({**reports, "validation": [nothing], "test": [nothing]})
    card = card_of(job.train(**QUICK))
    assert card["metrics"] == {}
    assert len(card["golden_rows"]) == 8  # of the training rows, for want of others


def test_a_class_that_training_never_saw_is_counted_and_counts_as_wrong(new_job, reports, capsys):
    completions = reports["test"][0]["completion"].to_pylist()
    completions[:3] = ["go around"] * 3
    card = card_of(new_job(with_column(reports, "test", "completion", completions)).train(**QUICK))
    assert card["unseen_completions"] == {"validation": {}, "test": {"go around": 3}}
    assert "3 rows of test have the completion 'go around'" in capsys.readouterr().out
    confusion = card["confusion"]["test"]
    assert confusion["actual"][-1] == "go around"
    assert "go around" not in confusion["given"]
    assert sum(confusion["counts"][-1]) == 3
    assert card["metrics"]["test"]["rows"] == 40
    assert card["metrics"]["test"]["exact_match"] <= 37 / 40


def test_an_overlong_prompt_is_cut_and_counted(new_job, reports, capsys):
    prompts = reports["train"][0]["prompt"].to_pylist()
    prompts[0] = "Phase: climb. Remark: " + "a c retd " * 100 + ". Effect:"
    job = new_job(with_column(reports, "train", "prompt", prompts))
    assert card_of(job.train(**QUICK))["cut_prompts"] == {"train": 1, "validation": 0, "test": 0}
    assert "1 prompts of train are longer than max_tokens and were cut" in capsys.readouterr().out


def test_an_overlong_completion_is_refused(new_job, reports):
    completions = reports["train"][0]["completion"].to_pylist()
    completions[0] = "landing " * 100
    job = new_job(with_column(reports, "train", "completion", completions))
    with pytest.raises(OverlongCompletion, match="raise max_tokens, or shorten the completion"):
        job.train()


def test_free_text_completions_are_not_ranked(new_job, reports):
    completions = [f"effect {i}" for i in range(240)]
    card = card_of(new_job(with_column(reports, "train", "completion", completions)).train(**QUICK))
    assert card["answers"] == []
    assert card["confusion"]["test"] == {}
    assert set(card["metrics"]["test"]) == {
        "rows",
        "completion_loss",
        "completion_perplexity",
        "exact_match",
    }


def test_several_hosts_are_refused(new_job, reports):
    job = new_job(reports)
    job.hosts = ["algo-1", "algo-2"]
    with pytest.raises(OneHostOnly, match="set instance_count to 1"):
        job.train()


def test_more_layers_than_there_are_is_refused(new_job, reports):
    with pytest.raises(UnsuitableBaseModel, match="the base model has 2 layers"):
        new_job(reports).train(lora_layers=3)


def test_a_loss_that_is_no_number_ends_the_training(new_job, reports):
    with pytest.raises(DivergedTraining, match="lower learning_rate"):
        new_job(reports).train(lora_alpha=1e39)


def test_a_base_that_is_not_there_is_named(new_job, reports):
    with pytest.raises(BaseModelMissing, match="can't be had from the Hugging Face hub"):
        new_job(reports).train(base_model="nobody/no-such-model")


def test_a_stop_before_training_is_heeded(new_job, reports):
    stop = StopSignal()
    stop.requested = True
    with pytest.raises(Stopped):
        new_job(reports).train(stop)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("epoch", "2", "no hyperparameter 'epoch': did you mean 'epochs'"),
        ("epochs", "0", r"expected a number in \(0, inf\]"),
        ("epochs", "two", "expected a number"),
        ("batch_size", "0", "expected a whole number from 1"),
        ("batch_size", "2.5", "expected a whole number"),
        ("lora_layers", "0", "expected a whole number from 1, or all"),
        ("lora_targets", "q_prj", "did you mean 'q_proj'"),
        ("max_tokens", "8", "expected a whole number from 16"),
        ("balance", "1.5", r"expected a number in \[0, 1\]"),
        ("warmup", "-0.1", r"expected a number in \[0, 1\]"),
        ("micro_batch_size", "0", "expected a whole number from 1"),
        ("gradient_checkpointing", "yes", "expected one of true, false"),
        ("precision", "float16", "expected one of auto, float32, bfloat16"),
        ("base_model", " ", r"expected a hub id \(organization/name"),
    ],
)
def test_a_wrong_hyperparameter_is_explained(name: str, value: str, says: str):
    with pytest.raises(InvalidHyperparameter, match=says):
        parse_hyperparameters({"base_model": "some/model", name: value})


def test_the_base_model_must_be_named():
    with pytest.raises(InvalidHyperparameter, match="base_model is missing"):
        parse_hyperparameters({"epochs": "1"})


def card_of(model: Path) -> dict[str, Any]:
    return json.loads((model / "model-card.json").read_text())
