"""Runs that die or meet: real run processes over one deployment, killed and started at once."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from locations import REPOSITORY, Location, own_deployment
from waiting import wait_until

pytestmark = pytest.mark.slow

RAW = "raw/house_sales"
FEATURES = "staging/stg_house_sales,features/house_price_features"
DATASET = "house_prices/sampled_training_dataset"
MODEL = "house_prices/trained_xgboost_model"
WEEK = "2014-12-29"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """Raw rows, features and the dataset of WEEK; no model yet."""
    from sf_sagemaker.definitions import defs

    home = tmp_path_factory.mktemp("deployment") / "home"
    with own_deployment(home) as instance:
        location = Location(defs(), instance, home)
        weeks = ("2014-09-08", "2015-01-05")
        assert location.materialize([RAW], partitions=weeks).success
        assert location.materialize(FEATURES.split(","), partitions=weeks).success
        assert location.materialize([DATASET], WEEK).success
        yield location


@dataclass(frozen=True)
class Launched:
    """A run in a process of its own; what it prints goes to a file, since nobody reads along."""

    process: subprocess.Popen[str]
    log: Path

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, timeout: float) -> str:
        """Waits for its end, and gives what it printed."""
        self.process.wait(timeout)
        return self.log.read_text()


def launch(location: Location, assets: str, partition: str) -> Launched:
    """A run of its own, in a process group of its own."""
    log = location.home / f"launch-{uuid.uuid4().hex}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("dg")), "launch",
                "--assets", ",".join(f"key:{key}" for key in assets.split(",")),
                "--partition", partition,
            ],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "DAGSTER_HOME": str(location.home / "dagster"),
                "SF_SAGEMAKER_HOME": str(location.home),
                "VIRTUAL_ENV": str(Path(sys.executable).parent.parent),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip
    return Launched(process, log)


def jobs(location: Location) -> list[Path]:
    return sorted((location.home / "storage" / "training-jobs").glob("house-prices-*"))


def status(job: Path) -> str:
    try:
        return json.loads((job / "status.json").read_text())["status"]
    except FileNotFoundError:
        return "none"


def materializations(location: Location, key: str) -> list[dg.AssetMaterialization]:
    records = location.instance.fetch_materializations(
        dg.AssetKey(key.split("/")), limit=100
    ).records
    found = (record.asset_materialization for record in records)
    return [materialization for materialization in found if materialization is not None]


def test_a_run_killed_while_training_leaves_a_job_that_the_next_run_adopts(
    deployment: Location,
) -> None:
    run = launch(deployment, MODEL, WEEK)
    wait_until(lambda: any(status(job) == "InProgress" for job in jobs(deployment)), 90)
    run.kill()
    [job] = jobs(deployment)
    assert not materializations(deployment, MODEL)

    output = launch(deployment, MODEL, WEEK).finish(timeout=120)
    [materialization] = materializations(deployment, MODEL)
    assert jobs(deployment) == [job], output
    assert materialization.metadata["adopted"].value is True
    assert materialization.metadata["training_job"].value == job.name


def test_two_runs_of_one_partition_at_once_share_one_job(deployment: Location) -> None:
    week = "2014-12-22"
    before = len(jobs(deployment))
    runs = [launch(deployment, f"{DATASET},{MODEL}", week) for _ in range(2)]
    outputs = [run.finish(timeout=180) for run in runs]
    assert [run.process.returncode for run in runs] == [0, 0], outputs
    assert len(jobs(deployment)) == before + 1
    of_the_week = [m for m in materializations(deployment, MODEL) if m.partition == week]
    assert sorted(bool(m.metadata["adopted"].value) for m in of_the_week) == [False, True]
