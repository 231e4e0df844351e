"""The examples of incident triage: what they hold, how they land, and what stops the build."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = "from features.incident_triage_examples"
MODELS_ONLY = ("--exclude-resource-type", "unit_test", "--select", "tag:incident_triage")


def examples(warehouse, where: str = "true") -> list[tuple[Any, ...]]:
    return warehouse.query(f"{EXAMPLES} where {where} order by report_id")


def test_every_report_with_an_effect_is_one_example(full_build):
    warehouse, _ = full_build
    assert warehouse.query(
        f"select count(*), count(distinct report_id), count(distinct normalized_remark) {EXAMPLES}"
    ) == [(1900, 1900, 1856)]
    assert warehouse.query(
        "select count(*) from raw.incident_reports where effect is not null"
    ) == [(1900,)]


def test_effects_keep_their_own_frequencies(full_build):
    warehouse, _ = full_build
    assert warehouse.query(f"select completion, count(*) {EXAMPLES} group by 1 order by 2") == [
        ("shutdown", 114),
        ("other", 343),
        ("abort", 521),
        ("landing", 922),
    ]


def test_prompts_are_made_of_phase_and_remark(full_build):
    warehouse, _ = full_build
    rows = warehouse.query(
        "select example.prompt, example.normalized_remark, example.remark_is_cut, "
        "report.remarks, report.phase_of_flt "
        f"{EXAMPLES} as example join raw.incident_reports as report using (report_id)"
    )
    assert len(rows) == 1900
    for prompt, normalized, is_cut, remark, phase in rows:
        expected = re.sub("[^a-z0-9]+", " ", remark.lower()).strip()
        assert normalized == expected
        assert is_cut == (len(expected) > 120)
        asked = (phase or "unknown").lower().replace("-", " ")
        assert prompt == f"Phase: {asked}. Remark: {expected[:120].strip()}. Effect:"
    assert sum(is_cut for _, _, is_cut, _, _ in rows) > 500
    assert max(len(prompt) for prompt, *_ in rows) <= 160


def test_models_describe_all_their_columns(full_build, manifest: dict[str, Any]):
    warehouse, _ = full_build
    for schema, name, unique_id in (
        ("raw", "incident_reports", "source.sf_sagemaker.raw.incident_reports"),
        ("staging", "stg_incident_reports", "model.sf_sagemaker.stg_incident_reports"),
        ("features", "incident_triage_examples", "model.sf_sagemaker.incident_triage_examples"),
    ):
        node = {**manifest["sources"], **manifest["nodes"]}[unique_id]
        stored = warehouse.query(
            "select column_name from duckdb_columns() "
            f"where schema_name = '{schema}' and table_name = '{name}'"
        )
        assert set(node["columns"]) == {column for (column,) in stored}
        assert all(column["description"].strip() for column in node["columns"].values())
    dagster = manifest["nodes"]["model.sf_sagemaker.incident_triage_examples"]["config"]["meta"]
    assert dagster["dagster"] == {"group": "incident_triage", "owners": ["team:analytics"]}


def test_months_in_any_order_give_the_examples_of_one_build(warehouse, full_build):
    months = [date(1996, 7, 1), date(1996, 8, 1), date(1996, 9, 1), date(1996, 10, 1)]
    for number in (1, 2, 0):
        start, end = months[number], months[number + 1]
        warehouse.land_reports(start, end)
        result = warehouse.dbt("build", *MODELS_ONLY, period=(start, end))
        assert result.success, result
        assert result.nodes["incident_triage_examples"] == "success"
    landed = "incident_date >= '1996-07-01' and incident_date < '1996-10-01'"
    assert len(examples(warehouse)) > 50
    assert examples(warehouse) == examples(full_build[0], landed)

    # what is gone from raw when its month lands again is gone from the examples
    gone = "incident_date between '1996-08-10' and '1996-08-20'"
    warehouse.execute(f"delete from raw.incident_reports where {gone}")
    assert warehouse.dbt("build", *MODELS_ONLY, period=(months[1], months[2])).success
    assert examples(warehouse) == examples(full_build[0], f"{landed} and not {gone}")
    assert examples(warehouse) != examples(full_build[0], landed)


def test_a_report_that_landed_twice_stops_the_build(full_build, tmp_path: Path):
    warehouse = full_build[0].copy_to(tmp_path)
    before = examples(warehouse)
    warehouse.execute("insert into raw.incident_reports from raw.incident_reports limit 1")
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    assert not result.success
    assert "source_unique_raw_incident_reports_report_id" in result.named("fail")
    assert "incident_triage_examples" in result.named("skipped")
    assert examples(warehouse) == before


def test_an_effect_that_is_new_is_warned_of_and_becomes_an_answer(full_build, tmp_path: Path):
    warehouse = full_build[0].copy_to(tmp_path)
    warehouse.execute(
        "update raw.incident_reports set effect = 'Go Around' "
        "where report_id = (select min(report_id) from raw.incident_reports where effect is not null)"
    )
    result = warehouse.dbt("build", *MODELS_ONLY)
    assert result.success
    assert result.named("warn") == {"effects_on_flight_are_known"}
    assert warehouse.query(f"select count(*) {EXAMPLES} where completion = 'go around'") == [(1,)]
