"""The project as its user meets it: webserver and daemon started, a backfill launched, pages looked at."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locations import REPOSITORY
from waiting import wait_until

pytestmark = pytest.mark.slow

_CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `dg dev` over an empty deployment."""
    home = tmp_path_factory.mktemp("webserver")
    (home / "dagster").mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home / "dagster")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("dg")),
            "dev",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "DAGSTER_HOME": str(home / "dagster"),
            "SF_SAGEMAKER_HOME": str(home),
            "VIRTUAL_ENV": str(Path(sys.executable).parent.parent),
        },
        stdout=(home / "dev.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:

        def answers() -> bool:
            try:
                urllib.request.urlopen(f"{address}/server_info", timeout=5)
            except OSError:
                return False
            return True

        wait_until(answers, 120, pause=0.5, told=(home / "dev.log").read_text)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def graphql(address: str, query: str, **variables: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    return answer["data"]


def backfill(address: str, keys: list[str], partitions: list[str]) -> None:
    """Launches a backfill as the UI does, and waits until it has succeeded."""
    launched = graphql(
        address,
        """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
            __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        params={
            "assetSelection": [{"path": key.split("/")} for key in keys],
            "partitionNames": partitions,
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def succeeded() -> bool:
        state = graphql(
            address,
            """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
                __typename ... on PartitionBackfill { status error { message } } } }""",
            id=launched["backfillId"],
        )["partitionBackfillOrError"]
        assert state["status"] in ("REQUESTED", "COMPLETING", "COMPLETED_SUCCESS"), state
        return state["status"] == "COMPLETED_SUCCESS"

    wait_until(succeeded, 180, pause=1)


def test_a_range_is_backfilled_from_the_webserver_and_its_pages_show_it(webserver: str) -> None:
    weeks = ["2014-05-05", "2014-05-12", "2014-05-19"]
    dbt_models = ["staging/stg_house_sales", "features/house_price_features"]
    backfill(webserver, ["raw/house_sales", *dbt_models], weeks)
    asset = graphql(
        webserver,
        """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            description owners { ... on TeamAssetOwner { team } } groupName kinds
            dependencyKeys { path } partitionStats { numMaterialized }
            metadataEntries { label } } } }""",
        key={"path": ["features", "house_price_features"]},
    )["assetNodeOrError"]
    assert asset["description"]
    assert asset["owners"] == [{"team": "analytics"}]
    assert set(asset["kinds"]) >= {"dbt", "duckdb"}
    assert {tuple(key["path"]) for key in asset["dependencyKeys"]} == {
        ("staging", "stg_house_sales")
    }
    assert {"dagster/code_references", "dagster/column_schema"} <= {
        entry["label"] for entry in asset["metadataEntries"]
    }


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_lineage_reads_from_raw_to_model(webserver: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(
            f"{webserver}/assets/house_prices/trained_xgboost_model"
            "?view=lineage&lineageScope=upstream&lineageDepth=10"
        )
        for name in (
            "house_sales",
            "stg_house_sales",
            "house_price_features",
            "sampled_training_dataset",
            "trained_xgboost_model",
        ):
            page.get_by_text(name, exact=True).first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "lineage.png")
        browser.close()
    assert (tmp_path / "lineage.png").stat().st_size > 20_000
