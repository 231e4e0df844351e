"""incident_triage beside Claude: a tiny fine-tuned model, and a stand-in that answers for Claude."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from locations import (
    REPOSITORY,
    Location,
    Project,
    failure_of,
    metadata_of,
    own_deployment,
    temporary_project,
)
from sf_sagemaker import deployment
from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.bedrock import Bedrock
from sf_sagemaker.serving.bedrock_batch import BatchJobs
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from standins.sagemaker.bedrock import Conversation, Written, knows
from standins.sagemaker.service import SageMakerService
from tiny_language_model import make_tiny_language_model

pytest.importorskip("torch", reason="installed without the extra llm")
pytestmark = pytest.mark.slow

RAW = "raw/incident_reports"
EXAMPLES = ["staging/stg_incident_reports", "features/incident_triage_examples"]
DATASET = "incident_triage/sampled_training_dataset"
MODEL = "incident_triage/fine_tuned_llm"
BASELINE = "incident_triage/bedrock_baseline"
MONTHS = ("1990-01-01", "1992-12-01")
MONTH = "1992-12-01"
HAIKU = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
ANSWERS = ["abort", "landing", "other", "shutdown"]

TRIAGE = """
type: sf_sagemaker.components.FineTunedLLM
attributes:
  name: incident_triage
  source: incident_triage_examples
  row_key: [report_id]
  split_key: normalized_remark
  event_time: incident_date
  partitions: {{every: month, start: "1990-01-01", end: "1999-11-01"}}
  sample: {{window: 36 months, seed: 7}}
  base_model: {base}
  hyperparameters: {{epochs: 3, learning_rate: 0.02}}
  bedrock:
    model_id: eu.anthropic.claude-haiku-4-5-20251001-v1:0
    shots: 6
    instruction: Name the effect on the flight.
    {more}
"""
BUDGET = "{tokens: 2000000, cost: 5}"
PRICES = "{input_per_million: 1, output_per_million: 5, currency: USD}"
PLENTY = f"budget: {BUDGET}\n    prices: {PRICES}"


class Site:
    """The location, whose `bedrock` attributes a test changes, and the service that answers."""

    def __init__(self, project: Project, base: Path, instance: Any, home: Path) -> None:
        self.project = project
        self.base = base
        self.instance = instance
        self.home = home
        self.location = self.configured()

    def configured(self, more: str = PLENTY) -> Location:
        self.project.add("incident_triage", TRIAGE.format(base=self.base, more=more))
        self.location = Location(self.project.definitions(), self.instance, self.home)
        return self.location

    def compare(self, more: str = PLENTY) -> dg.ExecuteInProcessResult:
        return self.configured(more).materialize([BASELINE], MONTH)

    def forget_answers(self) -> None:
        import shutil

        shutil.rmtree(self.home / "storage" / "baselines", ignore_errors=True)

    def sql(self, *statements: str) -> None:
        with DuckDBWarehouse(self.home / "warehouse.duckdb", lock_timeout=20).writing() as session:
            for statement in statements:
                session.execute(statement)

    def held_out(self) -> dict[str, str]:
        """The completion of each prompt of the test split; some rows have the same prompt."""
        return dict(self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """Prompts and completions of the test split."""
        (file,) = self.home.glob(f"storage/datasets/incident_triage/{MONTH}/*/*/test/**/*.parquet")
        table = pq.read_table(file, columns=["prompt", "completion"])
        return list(zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, shared_service: SageMakerService
) -> Iterator[Site]:
    """Raw rows of 36 months, their examples, and the model of MONTH."""
    home = tmp_path_factory.mktemp("deployment") / "home"
    reports = pq.read_table(REPOSITORY / "data" / "faa_bird_strike_reports.parquet")
    remarks = [remark.lower() for remark in reports["remarks"].to_pylist()[:500]]
    base = make_tiny_language_model(tmp_path_factory.mktemp("base") / "tiny", remarks)
    with (
        temporary_project() as project,
        own_deployment(home) as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in shared_service.environment.items():
            patch.setenv(name, value)
        project.add_warehouse()
        made = Site(project, base, instance, home)
        for keys in ([RAW], EXAMPLES):
            landed = made.location.materialize(keys, partitions=MONTHS)
            assert landed.success, failure_of(landed)
        # A column of which nothing may leave: in every fifth report, the prompt has its value.
        made.sql(
            "update features.incident_triage_examples set phase_of_flight = null",
            "update features.incident_triage_examples set phase_of_flight = 'Canary ' || report_id, "
            "prompt = replace(prompt, '. Effect:', ' told by canary  ' || report_id || '. Effect:') "
            "where report_id % 5 = 0",
        )
        trained = made.location.materialize([DATASET, MODEL], MONTH)
        assert trained.success, failure_of(trained)
        yield made


@pytest.fixture
def claude(service: SageMakerService, site: Site) -> Iterator[SageMakerService]:
    """Right about 80 of 100 prompts, or what it is shown; nothing was answered yet."""
    service.bedrock.model = knows(site.held_out(), 0.8, ANSWERS)
    yield service
    site.forget_answers()


def table_of(metadata: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {str(r.data["model"]): dict(r.data) for r in metadata[name].records}


def test_the_comparison(site: Site, claude: SageMakerService) -> None:
    result = site.compare()
    assert result.success, failure_of(result)
    metadata, known = metadata_of(result, BASELINE), site.held_out()
    rows = metadata["rows"]
    assert rows == len(site.rows()) > 30
    model = site.location.instance.get_latest_materialization_event(dg.AssetKey(MODEL.split("/")))
    assert model is not None
    assert model.asset_materialization is not None
    own = {name: m.value for name, m in model.asset_materialization.metadata.items()}
    # The same rows, and the same verdict of the fine-tuned and the simple models as in its own report.
    assert own["fine_tuned_rows"] == rows
    for name in ("fine_tuned", "word_model", "commonest_answer"):
        mine = metadata["fine_tuned_exact_match" if name == "fine_tuned" else f"{name}_exact_match"]
        assert mine == pytest.approx(own[f"{name}_exact_match"])
    # What Claude is worth is counted here once more.
    answer = knows(known, 0.8, ANSWERS)
    said = {h.prompt: answer(h).text for h in claude.bedrock.asked if not h.examples}
    right = [said[prompt] == completion for prompt, completion in site.rows()]
    assert len(claude.bedrock.asked) == 2 * len(known)  # equal prompts are paid for once
    assert metadata["zero_shot_exact_match"] == pytest.approx(sum(right) / rows)
    assert 0.6 < metadata["zero_shot_exact_match"] < 1
    assert metadata["zero_shot_minus_fine_tuned"] == pytest.approx(
        metadata["zero_shot_exact_match"] - metadata["fine_tuned_exact_match"]
    )
    lines = table_of(metadata, "comparison")
    assert list(lines) == [
        "fine-tuned model", "Claude zero-shot", "Claude few-shot", "word model", "commonest answer",
    ]  # fmt: skip
    claude_line = lines["Claude few-shot"]
    assert claude_line["rows answered"] == str(rows)
    assert " to " in claude_line["95 % interval"]
    assert claude_line["points against fine-tuned"]
    assert float(claude_line["p99, ms"]) >= float(claude_line["p50, ms"]) >= 100
    billed = claude.bedrock.billed
    assert metadata["tokens"] == billed["input"] + billed["output"]
    assert metadata["cost"] == pytest.approx((billed["input"] + 5 * billed["output"]) / 1e6)
    assert metadata["zero_shot_cost"] + metadata["few_shot_cost"] == pytest.approx(metadata["cost"])
    assert metadata["few_shot_cost_per_1000"] == pytest.approx(
        1000 * metadata["few_shot_cost"] / len(known)
    )
    assert metadata["fine_tuned_ms_per_row"] > 0
    picture = re.fullmatch(
        r"!\[[^]]+\]\(data:image/png;base64,(.+)\)", metadata["accuracy_by_cost"]
    )
    assert picture is not None
    assert base64.b64decode(picture[1]).startswith(b"\x89PNG")
    assert re.search(r"fine-tuned model.*Claude|Claude.*fine-tuned model", metadata["worth_it"])
    assert "A thousand answers of Claude" in metadata["worth_it"]
    assert metadata["complete"] is True
    assert metadata["better_than_claude"] in ("yes", "no", "can't be told")


def test_what_claude_is_told(site: Site, claude: SageMakerService) -> None:
    assert site.compare().success
    zero = [heard for heard in claude.bedrock.asked if not heard.examples]
    few = [heard for heard in claude.bedrock.asked if heard.examples]
    held_out = site.held_out()
    assert {heard.prompt for heard in zero} == {heard.prompt for heard in few} == set(held_out)
    (system,) = {heard.system for heard in claude.bedrock.asked}
    assert system.startswith("Name the effect on the flight.\n")
    assert "abort, landing, other, shutdown" in system
    (examples,) = {heard.examples for heard in few}
    assert len(examples) == 6
    assert {answer for _, answer in examples} == set(ANSWERS)
    assert not {prompt for prompt, _ in examples} & set(held_out)
    assert {heard.temperature for heard in claude.bedrock.asked} == {0.0}
    assert {heard.model_id for heard in claude.bedrock.asked} == {HAIKU}


def test_values_of_a_listed_column_are_never_sent(site: Site, claude: SageMakerService) -> None:
    assert claude.find("canary") == []
    without = site.compare()
    assert without.success, failure_of(without)
    assert claude.find("canary")  # they are in the prompts, and nothing was listed
    site.forget_answers()
    claude.calls.clear()
    result = site.compare(f"{PLENTY}\n    never_send: [phase_of_flight]")
    assert result.success, failure_of(result)
    assert claude.calls.count("Converse") > 60
    assert claude.find("canary") == claude.find("Canary") == []
    metadata = metadata_of(result, BASELINE)
    withheld = sum("canary" in prompt for prompt, _ in site.rows())
    assert metadata["rows_withheld"] == withheld > 0
    assert metadata["zero_shot_rows"] == metadata["rows"] - withheld
    assert f"{withheld} of {metadata['rows']} rows were withheld" in metadata["notes"]
    shown = {
        **metadata,
        "comparison": "",
        "answers_that_are_none": metadata["answers_that_are_none"],
    }
    assert "canary" not in str(shown).lower()
    kept = "".join(p.read_text() for p in (site.home / "storage" / "baselines").rglob("*.json*"))
    assert "canary" not in kept.lower()


def test_a_listed_row_that_isnt_in_the_source_any_more_is_withheld(
    site: Site, claude: SageMakerService
) -> None:
    table = "features.incident_triage_examples"
    site.sql(f"create table kept as select * from {table}", f"delete from {table}")
    try:
        result = site.compare(f"{PLENTY}\n    never_send: [phase_of_flight]")
        assert "NothingToSend" in failure_of(result)
        assert "bedrock.never_send" in failure_of(result)
    finally:
        site.sql(f"insert into {table} select * from kept", "drop table kept")
    assert claude.calls.count("Converse") == 0


def test_without_rows_that_may_be_examples_there_are_none(
    site: Site, claude: SageMakerService
) -> None:
    (file,) = site.home.glob(f"storage/datasets/incident_triage/{MONTH}/*/*/train/**/*.parquet")
    train = ", ".join(map(str, pq.read_table(file, columns=["report_id"])["report_id"].to_pylist()))
    table = "features.incident_triage_examples"
    site.sql(
        f"create table kept as select * from {table}",
        f"update {table} set phase_of_flight = 'Effect' where report_id in ({train})",
    )
    try:
        result = site.compare(f"{PLENTY}\n    never_send: [phase_of_flight]")
    finally:
        site.sql(
            f"delete from {table}", f"insert into {table} select * from kept", "drop table kept"
        )
    assert result.success, failure_of(result)
    metadata = metadata_of(result, BASELINE)
    assert "There are 0 examples instead of 6" in metadata["notes"]
    assert "Claude few-shot" not in table_of(metadata, "comparison")
    assert metadata["zero_shot_rows"] > 30
    assert not [heard for heard in claude.bedrock.asked if heard.examples]


def test_a_budget_that_runs_out_and_is_continued(site: Site, claude: SageMakerService) -> None:
    first = site.compare("budget: {tokens: 6000}")
    assert first.success, failure_of(first)
    metadata = metadata_of(first, BASELINE)
    assert metadata["out_of_budget"] is True
    assert metadata["complete"] is False
    billed = claude.bedrock.billed
    assert metadata["tokens"] == billed["input"] + billed["output"] <= 6000
    assert 0 < metadata["few_shot_rows"] < metadata["rows"]
    assert abs(metadata["zero_shot_new_answers"] - metadata["few_shot_new_answers"]) <= 1
    assert "prompts were left when the budget ran out" in metadata["notes"]
    assert "with a larger budget" in metadata["notes"]
    assert "cost" not in metadata  # no prices
    second = site.compare()
    metadata = metadata_of(second, BASELINE)
    assert metadata["complete"] is True
    assert metadata["out_of_budget"] is False
    assert metadata["zero_shot_rows"] == metadata["few_shot_rows"] == metadata["rows"]
    asked = [(heard.prompt, heard.examples) for heard in claude.bedrock.asked]
    assert len(asked) == len(set(asked)) == 2 * len(site.held_out())
    third = metadata_of(site.compare(), BASELINE)
    assert third["zero_shot_new_answers"] == third["few_shot_new_answers"] == 0
    assert third["zero_shot_exact_match"] == metadata["zero_shot_exact_match"]


def test_refused_cut_and_malformed_answers_are_counted_and_shown(
    site: Site, claude: SageMakerService
) -> None:
    right = site.held_out()
    of_prompt = Counter(prompt for prompt, _ in site.rows())
    prompts = [prompt for prompt, count in of_prompt.items() if count == 1]
    special: dict[str, Callable[[], Written]] = {
        prompts[0]: lambda: Written("I'd rather not.", "content_filtered"),
        prompts[1]: lambda: Written("Blocked.", "guardrail_intervened"),
        prompts[2]: lambda: Written(f"{right[prompts[2]]} " * 60),
        prompts[3]: lambda: Written(None),
        prompts[4]: lambda: Written("It is a landing, I think."),
        prompts[5]: lambda: Written(f" **{right[prompts[5]].title()}**. "),
    }

    def model(heard: Conversation) -> Written:
        return special.get(heard.prompt, lambda: Written(right[heard.prompt]))()

    claude.bedrock.model = model
    metadata = metadata_of(site.compare(), BASELINE)
    # Five answers that are none, and rows that have the prompt, but not the completion, of another.
    wrong = 5 + sum(right[prompt] != completion for prompt, completion in site.rows())
    for way in ("zero_shot", "few_shot"):
        counted = [metadata[f"{way}_{kind}"] for kind in ("refused", "truncated", "malformed")]
        assert counted == [2, 1, 2]
        assert metadata[f"{way}_exact_match"] == pytest.approx(1 - wrong / metadata["rows"])
    shown = [record.data for record in metadata["answers_that_are_none"].records]
    assert {(r["kind"], r["written"]) for r in shown} >= {
        ("refused", "I'd rather not."), ("malformed", ""), ("malformed", "It is a landing, I think."),
    }  # fmt: skip
    assert "2 refused, 1 truncated, 2 malformed; they count as wrong" in metadata["notes"]
    assert "Raise bedrock.max_tokens" in metadata["notes"]


def test_throttling_slows_it_down_and_changes_nothing(site: Site, claude: SageMakerService) -> None:
    claude.limits.set("Converse", per_second=40, burst=5)
    metadata = metadata_of(site.compare(), BASELINE)
    throttled = [c for c in claude.calls.of("Converse") if c.error == "ThrottlingException"]
    assert throttled
    assert metadata["complete"] is True
    assert len(claude.bedrock.asked) == 2 * len(site.held_out())


def test_a_model_that_isnt_enabled_fails_with_what_to_do(
    site: Site, claude: SageMakerService
) -> None:
    claude.bedrock.enabled = set()
    failed = failure_of(site.compare())
    assert "ModelNotUsable" in failed
    assert f"Enable access to {HAIKU} in Bedrock's console in us-east-1" in failed


def test_no_credentials_are_a_clear_error(
    site: Site, claude: SageMakerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    failed = failure_of(site.compare())
    assert "CredentialsRefused" in failed
    assert "set AWS_ACCESS_KEY_ID" in failed.replace("Set", "set")


def test_a_period_without_a_model_asks_nothing(site: Site, claude: SageMakerService) -> None:
    failed = site.configured().materialize([BASELINE], "1992-11-01")
    assert "materialize incident_triage/fine_tuned_llm for it" in failure_of(failed)
    assert claude.calls.count("Converse") == 0


def test_no_credential_is_in_metadata_or_answers(site: Site, claude: SageMakerService) -> None:
    metadata = str(metadata_of(site.compare(), BASELINE))
    kept = "".join(p.read_text() for p in (site.home / "storage" / "baselines").rglob("*.json*"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert claude.environment[name] not in metadata + kept
    assert claude.find(claude.environment["AWS_SECRET_ACCESS_KEY"]) == []


def test_a_run_that_dies_half_way_pays_nothing_twice(site: Site, claude: SageMakerService) -> None:
    claude.faults.fail(
        "Converse",
        "AccessDeniedException",
        "The account was closed.",
        403,
        times=None,
        where=lambda request: len(claude.bedrock.asked) > 60,
    )
    assert "The account was closed" in failure_of(site.compare())
    paid = len(claude.bedrock.asked)
    assert paid > 60
    claude.faults.clear()
    metadata = metadata_of(site.compare(), BASELINE)
    assert metadata["complete"] is True
    prompts = 2 * len(site.held_out())
    assert len(claude.bedrock.asked) == prompts
    assert metadata["zero_shot_new_answers"] + metadata["few_shot_new_answers"] == prompts - paid


def test_many_rows_are_asked_as_a_batch_that_the_run_holds(
    site: Site, claude: SageMakerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second model, most of whose rows are held out, with a bucket and a role for batches."""
    claude.create_bucket("batches-of-claude")
    role = claude.create_role("bedrock-batches", "bedrock.amazonaws.com")
    aws = Aws()
    jobs = BatchJobs(
        aws, S3Storage(aws, "batches-of-claude", "x"), role, poll=0.1, longest_poll=0.2
    )
    local = deployment.resources()
    monkeypatch.setattr(deployment, "resources", lambda: {**local, "bedrock": Bedrock(aws, jobs)})
    text = TRIAGE.format(base=site.base, more=f"batch_from: 120\n    {PLENTY}")
    text = text.replace("name: incident_triage", "name: held_out")
    text = text.replace("seed: 7", "seed: 7, splits: {train: 0.3, validation: 0.1, test: 0.6}")
    text = text.replace("epochs: 3", "epochs: 0.2")
    site.project.add("held_out", text)
    location = site.configured()
    trained = location.materialize(
        ["held_out/sampled_training_dataset", "held_out/fine_tuned_llm"], MONTH
    )
    assert trained.success, failure_of(trained)
    claude.bedrock.asked.clear()
    result = location.materialize(["held_out/bedrock_baseline"], MONTH)
    assert result.success, failure_of(result)
    metadata = metadata_of(result, "held_out/bedrock_baseline")
    assert metadata["rows"] > 200
    assert metadata["complete"] is True
    assert claude.calls.count("Converse") == 40
    assert claude.calls.count("CreateModelInvocationJob") == 2
    run = location.instance.get_run_by_id(result.run_id)
    assert run is not None
    held = {tag for tag, noun in run.tags.items() if noun == "batch"}
    assert held == {f"sf_sagemaker/{job.name}" for job in claude.bedrock.batches()[-2:]}
    # At half the price, but for the first twenty.
    billed = claude.bedrock.billed
    assert metadata["cost"] < 0.75 * (billed["input"] + 5 * billed["output"]) / 1e6
    assert metadata["few_shot_p99_ms"] >= 100
