"""Endpoints on SageMaker: deployed, updated under load, rolled back, adopted, reviewed and stopped."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from locations import REPOSITORY
from serving.models import ROW
from serving.sagemaker_site import (
    AT_ONCE,
    BUCKET,
    CANARY,
    ServingSite,
    host_of,
    options,
    serving_site,
)
from sf_sagemaker.aws import Aws
from sf_sagemaker.containers.serving.golden import golden_request
from sf_sagemaker.serving.endpoint import Approval, EndpointState, ServedModel, endpoint_name
from sf_sagemaker.serving.errors import (
    ApprovalPending,
    DeploymentFailed,
    EndpointNotFound,
    EndpointStopped,
    HostUnavailable,
    InvalidEndpoint,
    ModelRejected,
    RolledBack,
)
from sf_sagemaker.serving.hosting import AlarmRules, Hosting, Instances, Rollout, Serverless
from sf_sagemaker.serving.sagemaker import EndpointPacing, SageMakerEndpointHost
from sf_sagemaker.serving.sagemaker_model import SageMakerModels
from standins.sagemaker.quotas import ENDPOINT
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

BODY = json.dumps({"instances": [ROW]}).encode()


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingSite]:
    with serving_site(tmp_path_factory.mktemp("artifacts")) as site:
        yield site


@pytest.fixture
def site(account: ServingSite) -> Iterator[ServingSite]:
    """The account without endpoints, faults or settings of an earlier test."""
    yield account
    service = account.service
    service.faults.clear()
    service.limits.clear()
    service.quotas.clear()
    service.reset_settings()
    for name in ("houses", "flats"):
        try:
            account.again().stop(name)
        except EndpointNotFound:
            continue
    service.calls.clear()


def price(site: ServingSite, name: str = "houses") -> float:
    reply = site.host.invoke(name, BODY)
    assert reply.status == 200, reply
    return json.loads(reply.body)["predictions"][0]["prediction"]


def in_background(work: Any) -> tuple[threading.Thread, list[Exception]]:
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  for the test to look at
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failed


def test_a_model_is_registered_deployed_and_answers(site: ServingSite) -> None:
    model = site.model(1)
    deployed = site.host.deploy("houses", model, options())
    assert deployed.changed
    description = deployed.description
    assert description.state is EndpointState.IN_SERVICE
    assert description.version == model.label
    assert description.page is not None
    assert description.page.endswith("#/endpoints/houses")
    assert site.service.endpoints["houses"].statuses == ["Creating", "InService"]
    golden = golden_request(site.artifacts.root / model.training_job)
    assert golden is not None
    reply = site.host.invoke("houses", golden.body)
    assert golden.difference(reply.body) is None
    assert reply.version == model.label
    [package] = site.service.packages["houses"]
    assert package.approval == "Approved"
    assert deployed.details["model_package"] == package.arn
    address = package.request["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    stored = site.service.client("s3").get_object(
        Bucket=BUCKET, Key=address.removeprefix(f"s3://{BUCKET}/")
    )
    assert json.loads(stored["Body"].read()) == {"metrics": {}}
    names = [deployed.details["endpoint_configuration"], deployed.details["sagemaker_model"]]
    assert all(len(name) <= 63 for name in names)


def test_the_same_again_changes_nothing(site: ServingSite) -> None:
    model = site.model(1)
    site.host.deploy("houses", model, options())
    before = site.service.endpoints["houses"].statuses.copy()
    site.service.calls.clear()
    again = site.again().deploy("houses", model, options())
    assert not again.changed
    assert site.service.endpoints["houses"].statuses == before
    assert site.service.calls.count("UpdateEndpoint") == 0
    assert len(site.service.packages["houses"]) == 1
    # The same training job as a later version of the log: no machine has to move for that.
    site.service.calls.clear()
    later = site.again().deploy("houses", replace(model, version=9), options())
    assert not later.changed
    assert later.description.version == model.label
    assert site.service.calls.count("UpdateEndpoint") == 0


def test_what_a_request_gets_wrong_is_told(site: ServingSite) -> None:
    site.host.deploy("houses", site.model(1), options())
    reply = site.host.invoke("houses", b'{"instances": [{"rooms": 3}]}')
    assert reply.status == 400
    assert "row 1 has no 'distance'" in json.loads(reply.body)["error"]
    assert site.host.invoke("houses", b"x", content_type="image/png").status == 415
    answer = site.host.invoke("houses", b"3,0.5,south", content_type="text/csv")
    assert (answer.status, float(answer.body)) == (200, pytest.approx(price(site)))
    with pytest.raises(EndpointNotFound, match="no endpoint castles"):
        site.host.invoke("castles", BODY)
    with pytest.raises(EndpointNotFound, match="nothing was deployed"):
        site.host.describe("castles")
    with pytest.raises(InvalidEndpoint, match="up to 63 letters"):
        site.host.deploy("my_houses", site.model(1), options())


def test_an_update_under_load_fails_no_request(site: ServingSite) -> None:
    first, second = site.model(1), site.model(2)
    site.host.deploy("houses", first, options(CANARY))
    versions: list[str | None] = []
    stop = threading.Event()

    def ask() -> None:
        host = site.again()
        while not stop.is_set():
            reply = host.invoke("houses", BODY)
            assert reply.status == 200
            versions.append(reply.version)

    asking = [in_background(ask) for _ in range(4)]
    deployed = site.host.deploy("houses", second, options(CANARY))
    stop.set()
    for thread, failed in asking:
        thread.join()
        assert failed == []
    assert deployed.changed
    endpoint = site.service.endpoints["houses"]
    assert endpoint.statuses == ["Creating", "InService", "Updating", "InService"]
    assert endpoint.shares == [50, 100]
    assert len(versions) > 50
    assert set(versions) == {first.label, second.label}
    # Between the first answer of the new one and the last of the old one, both did.
    new, old = versions.index(second.label), len(versions) - versions[::-1].index(first.label)
    assert new < old
    assert versions[-1] == second.label


def test_linear_traffic_goes_in_steps(site: ServingSite) -> None:
    rollout = Rollout(traffic="linear", step_percent=25, wait=timedelta(seconds=0))
    hosting = Hosting(machines=Instances(count=4), rollout=rollout)
    site.host.deploy("houses", site.model(1), options(hosting))
    site.host.deploy("houses", site.model(2), options(hosting))
    assert site.service.endpoints["houses"].shares == [25, 50, 75, 100]
    [update] = [call for call in site.service.calls if call.operation == "UpdateEndpoint"]
    assert update.parameters["DeploymentConfig"] == {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "LINEAR",
                "WaitIntervalInSeconds": 0,
                "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
            },
            "TerminationWaitInSeconds": 0,
            "MaximumExecutionTimeoutInSeconds": 3600,
        },
        "AutoRollbackConfiguration": {
            "Alarms": [{"AlarmName": "sf-sagemaker-houses-server-errors"}]
        },
    }


def test_a_model_that_fails_its_golden_rows_never_answers(site: ServingSite) -> None:
    good, bad = site.model(1), site.model(50)
    card = json.loads((site.artifacts.root / bad.training_job / "model-card.json").read_text())
    rows = [{**row, "prediction": row["prediction"] * 2} for row in card["golden_rows"]]
    site.artifacts.change_card(bad.training_job, golden_rows=rows)
    site.service.settings.health_seconds = 3
    with pytest.raises(DeploymentFailed, match=r"Failed: .* ping health check.*Nothing answers"):
        site.host.deploy("houses", bad, options())
    failed = site.host.describe("houses")
    assert failed.state is EndpointState.FAILED
    assert failed.version is None
    # An endpoint that never was is made anew.
    site.host.deploy("houses", good, options())
    before = price(site)
    with pytest.raises(
        DeploymentFailed,
        match=r"rolled back: .* ping health check.* 1/houses-job-1 answers as before",
    ):
        site.host.deploy("houses", bad, options())
    assert site.service.endpoints["houses"].statuses[-3:] == [
        "Updating",
        "RollingBack",
        "InService",
    ]
    assert price(site) == before
    described = site.host.describe("houses")
    assert described.version == good.label
    assert "ping health check" in (described.failure or "")


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_alarm_rolls_the_update_back(site: ServingSite, forgotten: bool) -> None:
    site.service.settings.forget_failure_reason = forgotten
    rules = AlarmRules(max_error_rate=0.05, max_latency=timedelta(milliseconds=300))
    hosting = replace(CANARY, alarms=rules)
    site.host.deploy("houses", site.model(1), options(hosting))
    endpoint = site.service.endpoints["houses"]
    deploying, failed = in_background(
        lambda: site.host.deploy("houses", site.model(2), options(hosting))
    )
    endpoint.wait_for(lambda it: it.share > 0)
    cloudwatch = site.service.client("cloudwatch")
    alarms = {it["AlarmName"]: it for it in cloudwatch.describe_alarms()["MetricAlarms"]}
    errors, latency = "sf-sagemaker-houses-server-errors", "sf-sagemaker-houses-model-latency"
    assert alarms[errors]["Threshold"] == 0.05
    assert (alarms[latency]["Threshold"], alarms[latency]["ExtendedStatistic"]) == (300_000, "p99")
    site.service.settings.endpoint_seconds = 1  # for the rollback to be seen
    cloudwatch.set_alarm_state(AlarmName=errors, StateValue="ALARM", StateReason="a test")
    deploying.join()
    [error] = failed
    assert isinstance(error, RolledBack)
    assert error.alarms == (errors,)
    assert error.serving == site.model(1).label
    assert f"rolled back by an alarm: {errors}. Version 1/houses-job-1 answers" in str(error)
    assert endpoint.statuses[-3:] == ["Updating", "RollingBack", "InService"]
    assert site.host.invoke("houses", BODY).version == site.model(1).label
    # Without a rule, its alarm goes.
    only_errors = replace(hosting, alarms=AlarmRules(max_error_rate=0.05))
    cloudwatch.set_alarm_state(AlarmName=errors, StateValue="OK", StateReason="a test")
    site.host.deploy("houses", site.model(2), options(only_errors))
    assert [it["AlarmName"] for it in cloudwatch.describe_alarms()["MetricAlarms"]] == [errors]


@pytest.fixture
def theirs(site: ServingSite) -> Iterator[Callable[[str], None]]:
    """Sets the state of an alarm of somebody else's making, which is quiet at first."""
    cloudwatch = site.service.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="theirs", Namespace="Site", MetricName="Latency", Statistic="Average",
        Period=60, EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    yield lambda state: cloudwatch.set_alarm_state(
        AlarmName="theirs", StateValue=state, StateReason="a test"
    )
    cloudwatch.delete_alarms(AlarmNames=["theirs"])


def test_nothing_is_updated_while_an_alarm_rings(
    site: ServingSite, theirs: Callable[[str], None]
) -> None:
    hosting = replace(CANARY, alarms=AlarmRules(names=("theirs",)))
    site.host.deploy("houses", site.model(1), options(hosting))
    theirs("ALARM")
    with pytest.raises(
        DeploymentFailed, match=r"while theirs rings.*1/houses-job-1 answers"
    ) as met:
        site.host.deploy("houses", site.model(2), options(hosting))
    assert not isinstance(met.value, RolledBack)
    assert site.service.calls.count("UpdateEndpoint") == 0
    without = replace(hosting, alarms=AlarmRules())
    assert site.host.deploy("houses", site.model(2), options(without)).changed


def test_an_alarm_that_rings_while_machines_are_missing_is_no_rollback_of_the_model(
    site: ServingSite, theirs: Callable[[str], None]
) -> None:
    hosting = replace(CANARY, alarms=AlarmRules(names=("theirs",)))
    site.host.deploy("houses", site.model(1), options(hosting))
    endpoint = site.service.endpoints["houses"]
    before = len(endpoint.shares)
    site.service.settings.endpoint_seconds = 2
    site.service.faults.fail_deployment("InsufficientInstanceCapacity: none is left")
    deploying, failed = in_background(
        lambda: site.host.deploy("houses", site.model(2), options(hosting))
    )
    endpoint.wait_for(lambda it: it.statuses[-1] == "Updating")
    theirs("ALARM")
    deploying.join()
    [error] = failed
    assert "InsufficientInstanceCapacity" in str(error)
    assert not isinstance(error, RolledBack)
    assert len(endpoint.shares) == before


def test_alarms_of_somebody_else_must_be_there(site: ServingSite) -> None:
    rules = AlarmRules(max_error_rate=None, names=("latency of the site",))
    hosting = replace(CANARY, alarms=rules)
    with pytest.raises(
        InvalidEndpoint, match=r"alarms\.names has latency of the site, and CloudWatch"
    ):
        site.host.deploy("houses", site.model(1), options(hosting))
    created = ("CreateModel", "CreateModelPackage", "CreateEndpointConfig", "CreateEndpoint")
    for operation in created:
        assert site.service.calls.count(operation) == 0
    cloudwatch = site.service.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="latency of the site", Namespace="Site", MetricName="Latency", Statistic="Average",
        Period=60, EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    deployed = site.host.deploy("houses", site.model(1), options(hosting))
    cloudwatch.delete_alarms(AlarmNames=["latency of the site"])
    assert deployed.details["alarms"] == "latency of the site"


def test_a_person_approves(site: ServingSite) -> None:
    hosting = replace(AT_ONCE, approval="manual")
    model, other = site.model(1, of="flats"), site.model(2, of="flats")
    assert site.host.review(model) is None
    with pytest.raises(ApprovalPending, match="update-model-package --model-package-arn arn:aws"):
        site.host.deploy("flats", model, options(hosting))
    with pytest.raises(EndpointNotFound):
        site.host.describe("flats")
    review = site.host.review(model)
    assert review is not None
    assert review.approval is Approval.PENDING
    client = site.service.client("sagemaker")
    client.update_model_package(ModelPackageArn=review.place, ModelApprovalStatus="Approved")
    assert site.host.review(model) == replace(review, approval=Approval.APPROVED)
    site.host.deploy("flats", model, options(hosting))
    assert price(site, "flats") > 0

    with pytest.raises(ApprovalPending):
        site.host.deploy("flats", other, options(hosting))
    pending = site.host.review(other)
    assert pending is not None
    client.update_model_package(
        ModelPackageArn=pending.place,
        ModelApprovalStatus="Rejected",
        ApprovalDescription="too dear",
    )
    with pytest.raises(ModelRejected, match=r"2/flats-job-2 of flats was rejected.*\(too dear\)"):
        site.host.deploy("flats", other, options(hosting))
    # Nor does automatic approval overrule a person.
    with pytest.raises(ModelRejected):
        site.host.deploy("flats", other, options(AT_ONCE))
    assert site.host.describe("flats").version == model.label
    assert [it.approval for it in site.service.packages["flats"]] == ["Approved", "Rejected"]


def test_a_serverless_endpoint(site: ServingSite) -> None:
    hosting = Hosting(machines=Serverless(memory=3072, max_concurrency=7))
    site.host.deploy("houses", site.model(1), options(hosting))
    site.host.deploy("houses", site.model(2), options(hosting))
    assert site.host.invoke("houses", BODY).version == site.model(2).label
    [_, second] = [it for it in site.service.calls if it.operation == "CreateEndpointConfig"]
    [variant] = second.parameters["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 3072, "MaxConcurrency": 7}
    [update] = [it for it in site.service.calls if it.operation == "UpdateEndpoint"]
    assert "DeploymentConfig" not in update.parameters
    assert site.service.calls.count("PutMetricAlarm") == 0


def test_a_serverless_endpoint_has_no_network(site: ServingSite) -> None:
    models = SageMakerModels(
        Aws(),
        site.models.storage,
        site.service.role_arn,
        site.artifacts.fetch,
        subnets=("subnet-1",),
        security_groups=("sg-1",),
    )
    with pytest.raises(InvalidEndpoint, match="no serverless endpoints in a VPC"):
        host_of(models).deploy("houses", site.model(1), options(Hosting(machines=Serverless())))
    assert list(site.service.calls) == []


DEPLOYING = """
import sys
from pathlib import Path
from serving.models import Artifacts
from serving.sagemaker_site import host_of, models_of, options
from sf_sagemaker.serving.endpoint import ServedModel

model = ServedModel("houses", 2, *sys.argv[3:5], "xgboost")
host_of(models_of(sys.argv[2], Artifacts(Path(sys.argv[1])))).deploy("houses", model, options())
"""


@pytest.mark.parametrize("operation", ["CreateEndpoint", "UpdateEndpoint"])
def test_a_run_that_is_killed_is_gone_on_with(site: ServingSite, operation: str) -> None:
    if operation == "UpdateEndpoint":
        site.host.deploy("houses", site.model(1), options())
    model = site.model(2)
    site.service.settings.endpoint_seconds = 3
    arguments = [site.artifacts.root, site.service.role_arn, model.training_job, model.artifact_uri]
    process = subprocess.Popen(
        [sys.executable, "-c", DEPLOYING, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")},
    )
    while not any(call.status for call in site.service.calls.of(operation)):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not site.service.endpoints["houses"].settled
    adopted = site.again().deploy("houses", model, options())
    assert adopted.changed
    assert adopted.description.version == model.label
    assert site.service.calls.count(operation) == 1


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint",
                                       "CreateModelPackage", "UpdateEndpoint"])  # fmt: skip
def test_answers_that_get_lost_change_nothing(site: ServingSite, operation: str) -> None:
    version = 60 + len(operation)
    if operation == "UpdateEndpoint":
        site.host.deploy("houses", site.model(1), options())
    site.service.faults.lose_answer(operation)
    model = site.model(version)
    deployed = site.host.deploy("houses", model, options())
    assert site.service.faults.left() == []
    assert deployed.description.version == model.label
    packages = [it.request["ModelPackageDescription"] for it in site.service.packages["houses"]]
    assert packages.count(f"Training job {model.training_job}") == 1


def test_an_update_that_another_run_makes_just_then_is_no_rollback(site: ServingSite) -> None:
    site.host.deploy("houses", site.model(1), options())
    for version in (2, 3):
        site.models.ensure_model(site.model(version))
    site.service.calls.clear()
    slow = SageMakerEndpointHost(
        site.models, pacing=EndpointPacing(poll=8, longest_poll=8, patience=5)
    )
    first, failed = in_background(lambda: slow.deploy("houses", site.model(2), options()))
    endpoint = site.service.endpoints["houses"]
    wait_until(lambda: any(call.status for call in site.service.calls.of("UpdateEndpoint")))
    endpoint.wait_for(lambda it: it.statuses[-1] == "InService")
    site.service.settings.endpoint_seconds = 6
    site.host.deploy("houses", site.model(3), options())
    first.join()
    [error] = failed
    assert not isinstance(error, RolledBack)
    assert "meanwhile" in str(error)
    assert f"Version {site.model(3).label} answers" in str(error)


def test_polls_that_are_throttled_are_made_again(site: ServingSite) -> None:
    site.service.settings.endpoint_seconds = 1
    deploying, failed = in_background(lambda: site.host.deploy("houses", site.model(1), options()))
    wait_until(lambda: site.service.calls.count("CreateEndpoint") or not deploying.is_alive())
    site.service.faults.throttle("DescribeEndpoint", 3)
    deploying.join()
    assert failed == []
    assert site.service.faults.left() == []


def test_an_update_that_cant_be_seen_yet_is_waited_for(site: ServingSite) -> None:
    site.host.deploy("houses", site.model(1), options())
    site.service.settings.stale_seconds = 1
    site.service.settings.endpoint_seconds = 2
    deployed = site.host.deploy("houses", site.model(2), options())
    assert deployed.description.version == site.model(2).label


def test_trouble_of_the_account_is_told(site: ServingSite) -> None:
    kind = Instances().instance_type
    site.service.quotas.set(kind, 0, ENDPOINT)
    with pytest.raises(InvalidEndpoint, match=r"for endpoint usage.*Service Quotas"):
        site.host.deploy("houses", site.model(1), options())
    site.service.quotas.clear()
    reason = "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity"
    site.service.faults.fail_deployment(reason)
    with pytest.raises(DeploymentFailed, match="InsufficientInstanceCapacity"):
        site.host.deploy("houses", site.model(1), options())
    site.service.faults.forbid_passing(site.service.role_arn)
    with pytest.raises(InvalidEndpoint, match="needs iam:PassRole"):
        site.host.deploy("houses", site.model(70), options())
    site.service.faults.clear()
    site.service.faults.deny("PutMetricAlarm")
    with pytest.raises(Exception, match="policy must allow it"):
        site.host.deploy("houses", site.model(70), options())


def test_an_endpoint_of_somebody_else_is_left_alone(site: ServingSite) -> None:
    site.host.deploy("houses", site.model(1), options())
    site.service.endpoints["houses"].request["Tags"] = []
    for act in (
        lambda: site.host.deploy("houses", site.model(2), options()),
        lambda: site.host.stop("houses"),
    ):
        with pytest.raises(InvalidEndpoint, match="this deployment has not made"):
            act()
    assert site.host.invoke("houses", BODY).version == site.model(1).label
    site.service.endpoints["houses"].request["Tags"] = [
        {"Key": "sf_sagemaker:project", "Value": site.models.storage.project}
    ]


def test_a_deployment_that_waits_for_another_keeps_its_configuration(site: ServingSite) -> None:
    site.host.deploy("houses", site.model(1), options())
    for version in (2, 3):
        site.models.ensure_model(site.model(version))
    site.service.settings.endpoint_seconds = 2
    first, failed = in_background(lambda: site.host.deploy("houses", site.model(2), options()))
    endpoint = site.service.endpoints["houses"]
    endpoint.wait_for(lambda it: it.statuses[-1] == "Updating")
    # Slower than the first to see that the first has ended.
    slow = SageMakerEndpointHost(
        site.models, pacing=EndpointPacing(poll=6, longest_poll=6, patience=5)
    )
    second, failed_too = in_background(lambda: slow.deploy("houses", site.model(3), options()))
    first.join()
    second.join()
    assert (failed, failed_too) == ([], [])
    assert site.host.describe("houses").version == site.model(3).label


def test_what_was_stopped_is_not_started_by_an_update(site: ServingSite) -> None:
    for stop_meanwhile in (False, True):
        site.service.calls.clear()
        if stop_meanwhile:
            site.host.deploy("houses", site.model(1), options())
            site.service.settings.endpoint_seconds = 2
            # The update finds the endpoint on its way out.
            stopping, failed = in_background(lambda: site.again().stop("houses"))
            wait_until(lambda: site.service.calls.count("DeleteEndpoint"))
            site.service.calls.clear()
        with pytest.raises(EndpointStopped, match="houses was stopped meanwhile"):
            site.host.deploy("houses", site.model(2), options(), start=False)
        assert site.service.calls.count("CreateEndpoint") == 0
    stopping.join()
    assert failed == []
    assert site.service.client("cloudwatch").describe_alarms()["MetricAlarms"] == []


def test_earlier_configurations_go_but_for_the_one_before(site: ServingSite) -> None:
    for version in (1, 2, 3, 4):
        site.host.deploy("houses", site.model(version), options())
    found = [name for name in site.service.endpoints.configs() if name.startswith("houses-config-")]
    assert len(found) == 2
    serving = site.service.endpoints["houses"].config_name
    assert found[-1] == serving or found[0] == serving


def test_earlier_configurations_of_a_long_name_go_too(site: ServingSite) -> None:
    model = "what_a_house_would_have_been_sold_for_had_it_been_sold_then"
    name = endpoint_name(model)
    for version in (1, 2, 3):
        site.host.deploy(name, site.model(version, of=model), options())
    found = [one for one in site.service.endpoints.configs() if one.startswith("what-a-house")]
    site.host.stop(name)
    assert len(found) == 2
    assert all(len(one) <= 63 for one in found)


def test_stop_leaves_nothing(site: ServingSite) -> None:
    site.host.deploy("houses", site.model(1), options())
    site.host.stop("houses")
    with pytest.raises(EndpointNotFound):
        site.host.describe("houses")
    assert site.service.client("cloudwatch").describe_alarms()["MetricAlarms"] == []
    with pytest.raises(EndpointNotFound):
        site.host.stop("houses")


def test_an_account_that_doesnt_answer(site: ServingSite) -> None:
    site.service.faults.internal_error("ListModelPackages", None)
    with pytest.raises(HostUnavailable, match="may answer later"):
        site.host.review(ServedModel("houses", 1, "none", "s3://x/y", "xgboost"))
