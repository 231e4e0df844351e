"""The endpoint asset on SageMaker: deployed, rolled back by an alarm, and waiting for a person."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dagster as dg
import duckdb
import pytest

from components.serving_location import MODEL, SALES, WEEKS, Site
from locations import failure_of, metadata_of, own_deployment, temporary_project
from serving.sagemaker_site import BUCKET, PACING, PREFIX
from sf_sagemaker import deployment
from sf_sagemaker.aws import Aws
from sf_sagemaker.components.endpoint_attributes import Endpoint
from sf_sagemaker.lifecycle.champions import Champion, read_champions
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.sagemaker import SageMakerEndpointHost
from sf_sagemaker.serving.sagemaker_model import SageMakerModels
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.platform import TrainingPlatform
from standins.sagemaker import SageMakerService
from standins.sagemaker.fixtures import reachable_service

KEY = "houses/endpoint"
ROLL_BACK = {"ops": {"houses__champion": {"config": {"version": 1}}}}
ALARM = "sf-sagemaker-houses-server-errors"
CANARY = (
    "instance_count: 2, price_per_hour: 0.1, rollout: {traffic: canary, step: 50, wait: 1 second}"
)


@dataclass
class Account:
    """One model's locations, which differ in how its endpoint is configured."""

    service: SageMakerService
    instance: dg.DagsterInstance
    home: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def location(self, endpoint: str) -> "Hosted":
        project = self.stack.enter_context(temporary_project())
        project.add("houses", MODEL.replace("endpoint: {}", f"endpoint: {{{endpoint}}}"))
        resources = deployment.resources()
        return Hosted(project.definitions(), self.instance, self.home, resources, self.service)


@dataclass
class Hosted(Site):
    service: SageMakerService

    @property
    def log(self) -> list[Champion]:
        return read_champions(cast(Storage, self.resources["storage"]), "houses")

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        sensor = self.definitions.resolve_sensor_def("houses_endpoint")
        context = dg.build_sensor_context(
            instance=self.instance,
            resources={name: self.resources[name] for name in ("storage", "endpoint_host")},
        )
        answer = sensor(context)
        assert isinstance(answer, dg.RunRequest | dg.SkipReason)
        return answer

    def reason(self) -> str:
        answer = self.tick()
        assert isinstance(answer, dg.SkipReason), answer
        return answer.skip_message or ""

    def follow(self) -> dg.ExecuteInProcessResult:
        """What the daemon does with a request of the sensor."""
        request = self.tick()
        assert isinstance(request, dg.RunRequest), request
        return self.materialize([KEY], tags=dict(request.tags))

    def follow_into_an_alarm(self, *, by_hand: bool = False) -> dg.ExecuteInProcessResult:
        endpoint = self.service.endpoints["houses"]
        before = len(endpoint.shares)
        cloudwatch = self.service.client("cloudwatch")

        def ring() -> None:
            endpoint.wait_for(lambda it: len(it.shares) > before)
            cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="ALARM", StateReason="a test")

        ringing = threading.Thread(target=ring)
        ringing.start()
        result = self.materialize([KEY]) if by_hand else self.follow()
        ringing.join()
        cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="OK", StateReason="a test")
        return result

    def check(self, result: dg.ExecuteInProcessResult) -> tuple[bool, dict[str, Any]]:
        (check,) = [
            one for one in result.get_asset_check_evaluations() if one.check_name == "golden_rows"
        ]
        return check.passed, {name: value.value for name, value in check.metadata.items()}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The local deployment, but for its endpoint host, which is SageMaker's."""
    home = tmp_path_factory.mktemp("deployment") / "home"
    local = deployment.resources
    with (
        reachable_service() as service,
        own_deployment(home) as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        service.create_bucket(BUCKET)

        def resources() -> dict[str, object]:
            made = dict(local())
            aws = Aws(service.region)
            platform = cast(TrainingPlatform, made["training_platform"])
            models = SageMakerModels(
                aws, S3Storage(aws, BUCKET, PREFIX), service.role_arn, platform.fetch_artifact
            )
            return made | {"endpoint_host": SageMakerEndpointHost(models, pacing=PACING)}

        patch.setattr(deployment, "resources", resources)
        with duckdb.connect(str(home / "warehouse.duckdb")) as connection:
            connection.execute(SALES)
        made = Account(service, instance, home)
        with made.stack:
            yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_champion_and_endpoint_agree_whatever_rings(account: Account) -> None:
    site = account.location(CANARY)
    site.train(2)
    first = site.materialize([KEY])
    assert first.success, failure_of(first)
    metadata = metadata_of(first, KEY)
    assert metadata["state"] == "in service"
    assert metadata["address"].endswith("/endpoints/houses/invocations")
    assert metadata["page"].startswith("https://us-east-1.console.aws.amazon.com/sagemaker/")
    assert metadata["cost_per_month"] == pytest.approx(146)
    assert metadata["model_package"].endswith(":model-package/houses/1")
    assert metadata["alarms"] == ALARM
    passed, found = site.check(first)
    assert passed, found
    assert "is in service since" in site.reason()

    site.train(4)
    assert len(site.log) == 2
    failed = site.follow_into_an_alarm()
    assert not failed.success
    assert f"RolledBack: endpoint houses was rolled back by an alarm: {ALARM}" in failure_of(failed)
    assert site.service.endpoints["houses"].statuses[-2:] == ["RollingBack", "InService"]
    *_, entry = site.log
    assert (entry.version, entry.kind) == (3, "rollback")
    assert entry.training_job == site.log[0].training_job
    assert entry.in_force_from == site.log[1].in_force_from
    assert f"version 2 was rolled back by {ALARM} when it was deployed" in entry.reason
    key = dg.AssetKey(["houses", "champion"])
    (record,) = account.instance.fetch_observations(key, limit=5).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["version"].value == 3
    account.service.faults.internal_error("DescribeEndpoint", None)
    assert "did not answer" in site.reason()
    account.service.faults.clear()
    # Both agree, the rejected model doesn't come back, and nothing is deployed for that.
    assert "is in service since" in site.reason()
    assert site.materialize(["houses/champion"]).success
    assert len(site.log) == 3
    again = site.materialize([KEY])
    assert metadata_of(again, KEY)["changed"] is False
    passed, found = site.check(again)
    assert passed, found
    assert (found["champion"], found["version"]) == (
        f"3/{entry.training_job}",
        f"1/{entry.training_job}",
    )

    # A champion that is to stay in spite of alarms isn't tried again by itself.
    keeping = account.location(f"{CANARY}, on_alarm: keep")
    keeping.train(5)
    assert len(keeping.log) == 4
    failed = keeping.follow_into_an_alarm()
    assert "RolledBack" in failure_of(failed)
    assert len(keeping.log) == 4
    assert f"rolled back by {ALARM}: make another model champion" in keeping.reason()
    by_hand = keeping.materialize([KEY])
    assert by_hand.success, failure_of(by_hand)
    assert "is in service since" in keeping.reason()

    # A person approves the next one.
    reviewed = account.location(f"{CANARY}, approval: manual")
    reviewed.train(6)
    pending = reviewed.follow()
    assert "ApprovalPending: 5/houses" in failure_of(pending)
    package = account.service.packages["houses"][-1]
    assert f"it waits for a person to approve {package.arn}" in reviewed.reason()
    assert "waits" in reviewed.reason()
    account.service.client("sagemaker").update_model_package(
        ModelPackageArn=package.arn, ModelApprovalStatus="Approved"
    )
    # Nor is one that a person approved and deployed by hand.
    kept = account.location(f"{CANARY}, approval: manual, on_alarm: keep")
    failed = kept.follow_into_an_alarm(by_hand=True)
    assert "RolledBack" in failure_of(failed)
    assert f"rolled back by {ALARM}: make another model champion" in kept.reason()
    deployed = reviewed.materialize([KEY])
    assert deployed.success, failure_of(deployed)
    assert metadata_of(deployed, KEY)["partition"] == WEEKS[6]

    # What a person stops stays stopped, approved or not.
    reviewed.host.stop("houses")
    assert "stopped by a person" in reviewed.reason()
    assert reviewed.materialize(["houses/champion"], run_config=ROLL_BACK).success
    assert "stopped by a person" in reviewed.reason()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_first_model_waits_for_its_approval(account: Account) -> None:
    text = MODEL.replace("name: houses", "name: flats").replace(
        "endpoint: {}", "endpoint: {approval: manual, rollout: {wait: 1 second}}"
    )
    project = account.stack.enter_context(temporary_project())
    project.add("flats", text)
    flats = Hosted(
        project.definitions(),
        account.instance,
        account.home,
        deployment.resources(),
        account.service,
    )
    trained = flats.definitions.resolve_job_def("flats_training").execute_in_process(
        partition_key=WEEKS[3], instance=account.instance
    )
    assert trained.success

    def tick() -> dg.RunRequest | dg.SkipReason:
        sensor = flats.definitions.resolve_sensor_def("flats_endpoint")
        context = dg.build_sensor_context(
            instance=account.instance,
            resources={name: flats.resources[name] for name in ("storage", "endpoint_host")},
        )
        answer = sensor(context)
        assert isinstance(answer, dg.RunRequest | dg.SkipReason)
        return answer

    def said() -> str:
        answer = tick()
        assert isinstance(answer, dg.SkipReason), answer
        return answer.skip_message or ""

    assert "nothing was deployed yet: materialize the endpoint once" in said()
    assert "ApprovalPending" in failure_of(flats.materialize(["flats/endpoint"]))
    [package] = account.service.packages["flats"]
    assert f"waits for a person to approve {package.arn}" in said()
    client = account.service.client("sagemaker")
    client.update_model_package(
        ModelPackageArn=package.arn,
        ModelApprovalStatus="Rejected",
        ApprovalDescription="not this one",
    )
    assert f"{package.arn} was rejected (not this one)" in said()
    client.update_model_package(ModelPackageArn=package.arn, ModelApprovalStatus="Approved")
    request = tick()
    assert isinstance(request, dg.RunRequest)
    deployed = flats.materialize(["flats/endpoint"], tags=dict(request.tags))
    assert deployed.success, failure_of(deployed)
    flats.host.stop("flats")
    assert "stopped by a person" in said()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_that_comes_late_starts_nothing_that_was_stopped(account: Account) -> None:
    site = account.location("rollout: {wait: 1 second}")
    site.train(7)
    assert site.materialize([KEY]).success
    assert site.materialize(["houses/champion"], run_config=ROLL_BACK).success
    request = site.tick()
    assert isinstance(request, dg.RunRequest)
    site.host.stop("houses")
    late = site.materialize([KEY], tags=dict(request.tags))
    assert "EndpointStopped: endpoint houses was stopped meanwhile" in failure_of(late)
    assert "stopped by a person" in site.reason()
    assert site.materialize([KEY]).success


def test_attributes() -> None:
    made = Endpoint.model_validate(
        {
            "instance_type": "ml.g5.xlarge",
            "instance_count": 3,
            "price_per_hour": 1.0,
            "rollout": {"traffic": "linear", "step": 20, "wait": "2 minutes"},
            "alarms": {"max_latency_ms": 250, "names": ["ours"]},
        }
    )
    hosting = made.options().hosting
    assert hosting.alarms.max_latency is not None
    assert hosting.alarms.max_latency.total_seconds() == 0.25
    assert hosting.rollout.step_percent == 20
    assert made.cost_per_month() == 3 * 730


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"instance_type": "m5.large"}, "not a SageMaker instance type"),
        ({"instance_count": 0}, "at least 1"),
        ({"rollout": {"traffic": "canary"}}, "set instance_count to 2 or more"),
        ({"rollout": {"traffic": "sometimes"}}, "all_at_once"),
        ({"instance_count": 2, "rollout": {"traffic": "canary", "step": 60}}, "expected 1 to 50"),
        ({"rollout": {"wait": "2 hours"}}, "expected up to 1:00:00"),
        ({"rollout": {"max_duration": "5 minutes"}}, "expected 0:10:00 to 8:00:00"),
        ({"instance_count": 2, "rollout": {"traffic": "linear", "step": 9}}, "expected 10 to 50"),
        (
            {"instance_count": 2, "rollout": {"traffic": "linear", "wait": "10 minutes"}},
            "don't fit into",
        ),
        ({"rollout": {"wait": "soon"}}, "not a length of time"),
        ({"serverless": {"memory": 3000}}, "expected 1024, 2048"),
        ({"serverless": {"max_concurrency": 500}}, "expected 1 to 200"),
        ({"serverless": {}, "rollout": {"traffic": "canary"}}, "serverless endpoint is updated"),
        ({"alarms": {"max_error_rate": 2}}, "expected a share"),
        ({"alarms": {"period": "30 seconds"}}, "whole minutes"),
        ({"alarms": {"names": [f"a{i}" for i in range(10)]}}, "an update takes 10"),
        ({"approval": "maybe"}, "automatic"),
        ({"on_alarm": "panic"}, "roll_back_champion"),
    ],
)
def test_what_no_endpoint_can_have_is_told(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Endpoint.model_validate(wrong)
