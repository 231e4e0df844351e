"""Mistakes in what a defs.yaml says of predictions, and of evaluations that rest on them."""

import pytest

from components.test_yaml_mistakes import MODEL

SCORED = MODEL + "  predictions: {batch_rows: 5000, transform: {min_rows: 100000}}\n"


def test_large_periods_and_evaluations_from_predictions(project):
    project.add_warehouse()
    project.add("house_prices", SCORED.replace("metric:", "from_predictions: true, metric:"))
    keys = {key.to_user_string() for key in project.definitions().resolve_all_asset_keys()}
    assert {"house_prices/predictions", "house_prices/evaluation"} <= keys


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("min_rows: 100000", "min_rows: 0", ["predictions.transform.min_rows", "1"]),
        ("min_rows: 100000", "max_payload_mb: 6", ["predictions.transform.max_payload_mb", "5"]),
        ("min_rows: 100000", "max_concurrent: 50", ["max_concurrent", "20"]),
        ("min_rows: 100000", "instance_count: 0", ["instance_count", "1"]),
        ("min_rows: 100000", "instance_type: m5.xlarge", ["instance_type", "ml.m5.xlarge"]),
        ("min_rows: 100000", "max_runtime: 7 days", ["transform.max_runtime", "at most 6 days"]),
        ("min_rows: 100000", "max_runtime: soon", ["predictions.transform.max_runtime", "soon"]),
        (
            "min_rows: 100000",
            "max_cost: 5",
            ["predictions.transform", "max_cost needs price_per_hour"],
        ),
        (
            "min_rows: 100000",
            "max_runtime: 2 hours, instance_count: 3, price_per_hour: 1, max_cost: 5",
            ["could cost 6.00, and predictions.transform.max_cost is 5.00"],
        ),
        ("min_rows: 100000", "minimum: 5", ["predictions.transform.minimum", "There are: "]),
        ("batch_rows: 5000", "batch_rows: none", ["predictions.batch_rows", "integer"]),
    ],
)
def test_a_mistake_is_named(project, right, wrong, says):
    assert right in SCORED
    project.add("house_prices", SCORED.replace(right, wrong))
    message = project.mistake()
    for part in says:
        assert part in message


def test_an_evaluation_from_predictions_needs_them(project):
    project.add("house_prices", MODEL.replace("metric:", "from_predictions: true, metric:"))
    message = project.mistake()
    assert "attributes.evaluation.from_predictions: it needs predictions" in message
    assert "defs.yaml" in message
