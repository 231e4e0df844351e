"""What the code location tells its reader before anything is materialized."""

import subprocess
import sys

import dagster as dg
import pytest

from locations import REPOSITORY


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    from sf_sagemaker.definitions import defs

    return defs()


def test_lineage_runs_from_raw_to_model_without_a_break(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    key = dg.AssetKey(["house_prices", "trained_xgboost_model"])
    path = []
    while True:
        path.append(key.to_user_string())
        parents = list(graph.get(key).parent_keys)
        if not parents:
            break
        [key] = parents
    assert path == [
        "house_prices/trained_xgboost_model",
        "house_prices/sampled_training_dataset",
        "features/house_price_features",
        "staging/stg_house_sales",
        "raw/house_sales",
    ]


def test_every_asset_is_described_owned_grouped_and_leads_to_its_code(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        name = key.to_user_string()
        assert node.description, name
        assert node.owners, name
        assert node.group_name not in ("", "default"), name
        assert node.kinds, name
        # These are of the model as a whole.
        whole = key.path[-1] in ("champion", "decay_curve", "endpoint")
        assert (node.partitions_def is None) == whole, name
        assert "dagster/code_references" in node.metadata, name


def test_dbt_tests_are_checks_that_block(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    checks = graph.get_check_keys_for_assets({dg.AssetKey(["features", "house_price_features"])})
    assert len(checks) > 5
    assert all(graph.get(check).blocking for check in checks)


def test_a_job_for_the_model(definitions: dg.Definitions) -> None:
    assert definitions.resolve_job_def("house_prices_training").partitions_def is not None


def test_loading_needs_no_heavy_module() -> None:
    code = (
        "import sys; from sf_sagemaker.definitions import defs; defs(); "
        "heavy = ['snowflake.connector', 'sagemaker', 'torch', 'mlflow', 'xgboost', 'duckdb', "
        "'pyarrow', 'matplotlib', 'boto3', 'dbt.cli.main', 'sklearn']; "
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]", found.stdout


def test_loading_is_quiet_about_young_features_of_dagster_and_about_nothing_else() -> None:
    code = (
        "import warnings; import dagster as dg; from sf_sagemaker.definitions import defs; "
        "defs().get_repository_def(); warnings.warn('a notice', dg.SupersessionWarning)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "in beta" not in told.stderr, told.stderr
    assert "in preview" not in told.stderr, told.stderr
    assert "SupersessionWarning: a notice" in told.stderr
