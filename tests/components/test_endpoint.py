"""The endpoint asset, its check, and the sensor that makes it follow the champion."""

import json
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from components.serving_location import WEEKS, Site, serving_site
from locations import failure_of, metadata_of
from sf_sagemaker.components.endpoint_attributes import Endpoint
from sf_sagemaker.serving.endpoint import EndpointState
from sf_sagemaker.serving.local_folder import EndpointFolder
from waiting import wait_until

pytestmark = pytest.mark.slow

KEY = "houses/endpoint"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home: Path = tmp_path_factory.mktemp("deployment") / "home"
    with serving_site(home) as made:
        yield made


def check_of(result: dg.ExecuteInProcessResult) -> tuple[bool, dict[str, Any]]:
    (check,) = [
        one for one in result.get_asset_check_evaluations() if one.check_name == "golden_rows"
    ]
    return check.passed, {name: value.value for name, value in check.metadata.items()}


def tick(site: Site) -> dg.RunRequest | dg.SkipReason:
    sensor = site.definitions.resolve_sensor_def("houses_endpoint")
    context = dg.build_sensor_context(
        instance=site.instance,
        resources={name: site.resources[name] for name in ("storage", "endpoint_host")},
    )
    answer = sensor(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def follow(site: Site) -> dg.ExecuteInProcessResult:
    """What the daemon does with a request of the sensor."""
    request = tick(site)
    assert isinstance(request, dg.RunRequest), request
    return site.materialize([KEY], tags=dict(request.tags))


def reason(site: Site) -> str:
    answer = tick(site)
    assert isinstance(answer, dg.SkipReason), answer
    return answer.skip_message or ""


def test_the_endpoint_follows_the_champion(site: Site) -> None:
    assert reason(site) == "there is no champion yet"
    without = site.materialize([KEY])
    assert "NoChampion: houses has no champion to serve" in failure_of(without)

    site.train(2)
    assert "nothing was deployed yet" in reason(site)
    first = site.materialize([KEY])
    assert first.success, failure_of(first)
    metadata = metadata_of(first, KEY)
    assert metadata["version"] == 1
    assert metadata["partition"] == WEEKS[2]
    assert metadata["state"] == "in service"
    assert metadata["address"].startswith("http://127.0.0.1:")
    assert metadata["changed"] is True
    passed, found = check_of(first)
    assert passed, found
    assert found["rows"] > 0
    assert found["version"] == found["champion"] == f"1/{metadata['training_job']}"
    assert f"{found['version']} is in service since" in reason(site)

    again = site.materialize([KEY])
    assert metadata_of(again, KEY)["changed"] is False

    site.train(4)
    second = follow(site)
    assert metadata_of(second, KEY)["version"] == 2
    assert metadata_of(second, KEY)["address"] == metadata["address"]
    assert check_of(second)[0]
    # A rollback is a change of champion like any other.
    site.materialize(
        ["houses/champion"], run_config={"ops": {"houses__champion": {"config": {"version": 1}}}}
    )
    third = follow(site)
    assert metadata_of(third, KEY)["version"] == 3
    assert metadata_of(third, KEY)["training_job"] == metadata["training_job"]


def test_an_endpoint_that_is_down_is_brought_back(site: Site) -> None:
    folder = EndpointFolder(site.host.root / "houses")
    supervisor = folder.status().supervisor
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: site.host.describe("houses").state is EndpointState.FAILED)
    wait_until(lambda: not folder.alive())
    back = follow(site)
    assert back.success, failure_of(back)
    assert check_of(back)[0]
    assert "is in service since" in reason(site)


def test_a_champion_that_cant_be_served_is_tried_three_times(site: Site) -> None:
    served = site.host.describe("houses").version
    site.train(6)
    log = sorted((site.home / "storage" / "champions" / "houses").glob("*.json"))
    champion = json.loads(log[-1].read_text())
    assert champion["partition"] == WEEKS[6]
    artifact = (
        site.home / "storage" / "training-jobs" / champion["training_job"] / "output/model.tar.gz"
    )
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[: len(whole) // 2])
    for _ in range(3):
        failed = follow(site)
        assert not failed.success
        assert "can't be unpacked" in failure_of(failed)
    assert "3 runs have failed to change that" in reason(site)
    # The one before it answers still, and the check says that it isn't the champion.
    assert site.host.describe("houses").version == served
    assert site.host.invoke("houses", b"{}").version == served
    artifact.write_bytes(whole)
    by_hand = site.materialize([KEY])
    assert by_hand.success
    assert check_of(by_hand)[0]
    assert "is in service" in reason(site)


def test_an_endpoint_that_a_person_stops_stays_stopped(site: Site) -> None:
    site.host.stop("houses")
    assert "stopped by a person" in reason(site)


def test_attributes() -> None:
    assert Endpoint(port=8090).options().port == 8090
    with pytest.raises(ValueError, match="at least 1024"):
        Endpoint(port=80)
    with pytest.raises(ValueError, match="soon"):
        Endpoint(start_timeout="soon")
    assert Endpoint(start_timeout="1 hour").options().start_timeout == timedelta(hours=1)
    with pytest.raises(ValueError, match="at most 1 hour"):
        Endpoint(start_timeout="61 minutes")
