"""Endpoints on Amazon SageMaker.

A model is registered, packed into a SageMaker Model, and put behind the endpoint by a configuration of
its own; an update goes from one fleet of machines to the other, and back where an alarm rings. Names
follow from content, so that deploying again finds what is there, or an update that is under way.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

from sf_sagemaker.aws import AwsError, AwsUnavailable, translated
from sf_sagemaker.serving.endpoint import (
    Deployment,
    EndpointDescription,
    EndpointOptions,
    EndpointState,
    Reply,
    Review,
    ServedModel,
    check_name,
    training_job_of,
)
from sf_sagemaker.serving.errors import (
    DeploymentFailed,
    EndpointNotFound,
    EndpointStopped,
    EndpointUnreachable,
    HostUnavailable,
    InvalidEndpoint,
    RolledBack,
)
from sf_sagemaker.serving.hosting import Instances, Serverless
from sf_sagemaker.serving.sagemaker_alarms import EndpointAlarms
from sf_sagemaker.serving.sagemaker_errors import exists_already, is_busy, not_found, on_refusal
from sf_sagemaker.serving.sagemaker_model import VERSION_VARIABLE, SageMakerModels, content_name
from sf_sagemaker.serving.sagemaker_registry import ModelRegistry, check_approved
from sf_sagemaker.serving.sagemaker_request import (
    CONFIG,
    config_request,
    deployment_config,
    tags,
)
from sf_sagemaker.training.run import jittered
from sf_sagemaker.training.sagemaker_request import project_tag

logger = logging.getLogger(__name__)

_STATES = {
    "Creating": EndpointState.STARTING,
    "InService": EndpointState.IN_SERVICE,
    "Updating": EndpointState.UPDATING,
    "SystemUpdating": EndpointState.UPDATING,
    "RollingBack": EndpointState.UPDATING,
    "Deleting": EndpointState.STOPPED,
    "Failed": EndpointState.FAILED,
    "OutOfService": EndpointState.FAILED,
    "UpdateRollbackFailed": EndpointState.FAILED,
}
_CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
_PROVISIONING = timedelta(minutes=45)  # the most that machines and the download of a model take
_APPEARING_SECONDS = 60.0  # while Describe may not know of what was just created or updated
_NAME = "EndpointConfigName"
_TIDIED = 20  # configurations of earlier models that one deployment deletes, at most


@dataclass(frozen=True)
class EndpointPacing:
    """How often SageMaker is asked, in seconds: each `poll`, and less often up to `longest_poll` while
    nothing changes. Calls that it doesn't answer are made again for `patience`."""

    poll: float = 10.0
    longest_poll: float = 30.0
    patience: float = 900.0


@dataclass(frozen=True)
class _Change:
    """A change of an endpoint that has ended: its last answer, and the alarms that rang meanwhile.

    `watched` is the configuration that the endpoint was about to have, where it was seen.
    """

    answer: Mapping[str, Any]
    ringing: tuple[str, ...] = ()
    watched: str | None = None


class SageMakerEndpointHost:
    """Runs endpoints from the SageMaker Models that `models` makes, under the same role."""

    def __init__(self, models: SageMakerModels, *, pacing: EndpointPacing | None = None) -> None:
        self._models = models
        self._aws = models.aws
        self._pacing = pacing or EndpointPacing()
        self._registry = ModelRegistry(models.aws, models.storage.project, models.role_arn)
        self._alarms = EndpointAlarms(models.aws)
        self._lock = Lock()
        self._labels: dict[str, str | None] = {}  # by configuration, which never changes

    def deploy(
        self, name: str, model: ServedModel, options: EndpointOptions, *, start: bool = True
    ) -> Deployment:
        """Puts a model behind the endpoint; returns when only it answers.

        An update to the same model that is under way, whoever asked for it, is waited for. Raises
        RolledBack where alarms rang, EndpointStopped, DeploymentFailed, ApprovalPending, ModelRejected,
        InvalidEndpoint, HostUnavailable, and what fetching the artifact raises.
        """
        check_name(name)
        hosting = options.hosting
        if isinstance(hosting.machines, Serverless) and self._models.in_network:
            raise InvalidEndpoint(
                f"endpoint {name} is to be serverless, and this deployment has subnets: SageMaker has "
                "no serverless endpoints in a VPC. Choose an instance_type"
            )
        kind = hosting.machines.instance_type if isinstance(hosting.machines, Instances) else None
        with _unavailable():
            if isinstance(hosting.machines, Instances):
                # An update needs them; SageMaker would take any name for the first deployment.
                self._alarms.check(hosting.alarms)
            container = self._models.container(model, image=hosting.image, instance_type=kind)
            package = self._registry.register(
                model, container, self._models.quality(model), hosting
            )
            check_approved(package, model)
            there = self._look(name)
            if there is not None:
                self._check_ours(name, there)
            elif not start:
                raise EndpointStopped(name)
            # A model that was champion before, and answers still, needs no new machines for that.
            version = self._label(there[_NAME]) if there is not None else None
            if version is not None and training_job_of(version) == model.training_job:
                model = replace(model, version=int(version.partition("/")[0]))
            sagemaker_model = self._models.ensure_model(
                model, image=hosting.image, instance_type=kind
            )
            config = config_request(
                model.model, sagemaker_model, options, self._models.storage.project
            )
            before = there[_NAME] if there is not None else None
            alarms: list[str] = []
            if isinstance(hosting.machines, Instances):
                alarms = self._alarms.ensure(
                    name, hosting.alarms, tags(model.model, self._models.storage.project)
                )
            changed = self._bring_about(name, model, config, alarms, options, start)
            self._tidy(name, model.model, {config[_NAME], *([before] if before else [])})
        return Deployment(
            self.describe(name),
            changed=changed,
            details={
                "model_package": package.arn,
                "endpoint_configuration": config[_NAME],
                "sagemaker_model": sagemaker_model,
                "alarms": ", ".join(alarms) or "none",
            },
        )

    def review(self, model: ServedModel) -> Review | None:
        """What was said about a model in the Model Registry; None where it isn't there yet."""
        with _unavailable():
            package = self._registry.find(model)
        if package is None:
            return None
        return Review(package.approval, package.arn, package.remark)

    def describe(self, name: str) -> EndpointDescription:
        with _unavailable():
            answer = self._look(check_name(name))
            region = self._aws.region
            if answer is None:
                raise EndpointNotFound(
                    f"no endpoint {name} in {region}: nothing was deployed to it"
                )
            status = answer["EndpointStatus"]
            answers = status not in ("Creating", "Failed", "Deleting")
            label = self._label(answer[_NAME]) if answers else None
        console = f"https://{region}.console.aws.amazon.com"
        return EndpointDescription(
            name=name,
            state=_STATES[status],
            address=f"https://runtime.sagemaker.{region}.amazonaws.com/endpoints/{name}/invocations",
            version=label,
            since=answer["LastModifiedTime"].astimezone(UTC) if answers else None,
            failure=answer.get("FailureReason")
            or (status if _STATES[status] is EndpointState.FAILED else None),
            page=f"{console}/sagemaker/home?region={region}#/endpoints/{name}",
            log=f"{console}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/"
            f"$252Faws$252Fsagemaker$252FEndpoints$252F{name}",
        )

    def invoke(self, name: str, body: bytes, *, content_type: str = "application/json") -> Reply:
        from botocore.exceptions import ClientError

        client = self._aws.client("sagemaker-runtime")
        try:
            with translated(f"invoke endpoint {check_name(name)}"):
                answer = client.invoke_endpoint(
                    EndpointName=name, Body=body, ContentType=content_type
                )
                content = answer["Body"].read()
        except AwsError as error:
            cause = error.__cause__
            if error.code == "ModelError" and isinstance(cause, ClientError):
                said = cause.response
                message = str(said.get("OriginalMessage", ""))
                return Reply(int(said.get("OriginalStatusCode", 500)), message.encode(), None)
            if not_found(error):
                raise EndpointNotFound(
                    f"no endpoint {name} in {self._aws.region} that answers"
                ) from error
            raise EndpointUnreachable(str(error)) from error
        return Reply(200, content, answer.get("CustomAttributes"))

    def stop(self, name: str) -> None:
        """Deletes the endpoint with its alarms and its configuration, and waits until it is gone.

        An update that is under way ends first. Raises EndpointNotFound, HostUnavailable, InvalidEndpoint
        for an endpoint that isn't this deployment's, and DeploymentFailed for one that doesn't end.
        """
        check_name(name)
        with _unavailable():
            there = self._look(name)
            if there is None:
                raise EndpointNotFound(f"no endpoint {name} in {self._aws.region}")
            self._check_ours(name, there)
            deadline = time.monotonic() + _PROVISIONING.total_seconds()
            there = self._settled(name, deadline, []).answer
            self._delete(name, deadline)
            self._alarms.delete(name)
            if there:
                self._delete_config(there[_NAME])

    # Deploying

    def _bring_about(
        self,
        name: str,
        model: ServedModel,
        request: Mapping[str, Any],
        alarms: list[str],
        options: EndpointOptions,
        start: bool,
    ) -> bool:
        """Has the endpoint serve by a configuration. False where it did already, and was at rest."""
        config = request[_NAME]
        longest = options.start_timeout + _PROVISIONING + options.hosting.rollout.max_duration
        deadline = time.monotonic() + longest.total_seconds()
        change = self._settled(name, deadline, alarms)
        if change.watched == config:
            # An earlier run asked for the same, and was not there to see it end.
            self._check_outcome(name, change, config, alarms)
            return True
        answer = change.answer
        if not answer and not start:
            self._alarms.delete(name)
            raise EndpointStopped(name)
        if answer and answer["EndpointStatus"] == "Failed":
            self._delete(name, deadline)
            answer = {}
        if answer and answer["EndpointStatus"] != "InService":
            raise DeploymentFailed(
                f"endpoint {name} is {answer['EndpointStatus']} "
                f"({answer.get('FailureReason', 'no reason is given')}), and takes no update: delete it "
                "in the console, and materialize it to start it again"
            )
        if answer and answer[_NAME] == config:
            return False
        ringing = self._alarms.ringing(alarms) if answer else []
        if ringing:
            raise DeploymentFailed(
                f"endpoint {name} is not updated while {', '.join(ringing)} rings: SageMaker would end "
                f"the update. Version {self._label(answer[_NAME])} answers as before. "
                "Mend what rings, or leave that alarm out for the model that mends it, and materialize "
                "it again"
            )
        # Not earlier: what another deployment has ended meanwhile deletes what nobody serves by.
        self._ensure_config(request)
        if answer:
            self._update(name, config, alarms, options)
        else:
            self._create(name, model, config)
        change = self._settled(
            name, deadline, alarms, appears=True, changes=answer.get("LastModifiedTime")
        )
        self._check_outcome(name, change, config, alarms, answer.get(_NAME))
        return True

    def _create(self, name: str, model: ServedModel, config: str) -> None:
        try:
            with translated(f"create endpoint {name}"):
                self._client.create_endpoint(
                    EndpointName=name,
                    EndpointConfigName=config,
                    Tags=tags(model.model, self._models.storage.project),
                )
        except AwsError as error:
            # The answer to an earlier try of the same call may have been lost.
            if not exists_already(error):
                raise on_refusal(error, self._models.role_arn) from error

    def _update(self, name: str, config: str, alarms: list[str], options: EndpointOptions) -> None:
        request: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config}
        if isinstance(options.hosting.machines, Instances):
            request["DeploymentConfig"] = deployment_config(options.hosting.rollout, alarms)
        try:
            with translated(f"update endpoint {name}"):
                self._client.update_endpoint(**request)
        except AwsError as error:
            if not is_busy(error):
                raise on_refusal(error, self._models.role_arn) from error

    def _check_outcome(
        self,
        name: str,
        change: _Change,
        config: str,
        alarms: list[str],
        before: str | None = None,
    ) -> None:
        """Raises RolledBack and DeploymentFailed unless the endpoint serves by the configuration.

        `before` is the one that a rollback goes back to, where it is known.
        """
        answer = change.answer
        if not answer:
            raise DeploymentFailed(f"endpoint {name} was deleted meanwhile: nothing answers")
        status, reason = answer["EndpointStatus"], answer.get("FailureReason")
        if status == "InService" and answer[_NAME] == config:
            return
        if status != "InService":
            raise DeploymentFailed(
                f"endpoint {name} is {status}: {reason or 'no reason is given'}"
                + (". Nothing answers" if status == "Failed" else "")
                + ": mend the cause and materialize it again"
            )
        serves = answer[_NAME]
        serving = self._label(serves)
        others = change.watched if change.watched not in (None, config) else None
        if others is None and before not in (None, serves):
            others = serves
        if others is not None:
            raise DeploymentFailed(
                f"endpoint {name} was updated to {others} meanwhile, and not to {config}. "
                f"Version {serving} answers: materialize it again"
            )
        again = f"Version {serving} answers as before"
        # An alarm may have gone quiet by now, and the reason may have been forgotten. An alarm that
        # rings while an update fails for a reason of its own says nothing about the model.
        ringing = change.ringing or tuple(self._alarms.ringing(alarms))
        if re.search(r"\balarm", reason, re.I) if reason else ringing:
            rang = ", ".join(ringing) or reason
            raise RolledBack(
                f"endpoint {name} was rolled back by an alarm: {rang}. {again}", ringing, serving
            )
        raise DeploymentFailed(
            f"endpoint {name} was rolled back: {reason or 'no reason is given'}. {again}"
        )

    def _settled(
        self,
        name: str,
        deadline: float,
        alarms: list[str],
        *,
        appears: bool = False,
        changes: datetime | None = None,
    ) -> _Change:
        """Waits until the endpoint is at rest. Its answer is empty where there is none (any more).

        With `appears`, one that isn't there is waited for; so is one that was modified last when
        `changes` says, since that was before it was updated. Raises DeploymentFailed at the deadline,
        and HostUnavailable.
        """
        began = time.monotonic()
        delay, state = self._pacing.poll, None
        ringing: list[str] = []
        watched = None
        while True:
            answer = self._patiently(lambda: self._look(name))
            early = appears and time.monotonic() - began < _APPEARING_SECONDS
            if answer is None:
                if not early:
                    return _Change({}, tuple(ringing), watched)
            elif answer["EndpointStatus"] not in _CHANGING:
                if not early or answer["LastModifiedTime"] != changes:
                    return _Change(answer, tuple(ringing), watched)
            else:
                pending = answer.get("PendingDeploymentSummary", {}).get(_NAME)
                if answer["EndpointStatus"] == "Creating":
                    pending = answer[_NAME]
                # What a rollback goes back to is not what was wanted.
                back = answer["EndpointStatus"] == "RollingBack"
                watched = (back and watched) or pending or watched
                found = self._patiently(lambda: self._alarms.ringing(alarms))
                ringing += [one for one in found if one not in ringing]
                if answer["EndpointStatus"] != state:
                    state, delay = answer["EndpointStatus"], self._pacing.poll
            if time.monotonic() > deadline:
                raise DeploymentFailed(
                    f"endpoint {name} is still {state}: ask again to go on waiting"
                )
            time.sleep(jittered(delay))
            delay = min(delay * 1.5, self._pacing.longest_poll)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """What `ask` gives, once AWS is there to answer. Raises AwsUnavailable after `patience`."""
        deadline = time.monotonic() + self._pacing.patience
        while True:
            try:
                return ask()
            except AwsUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(jittered(self._pacing.poll))

    # Configurations

    def _ensure_config(self, request: Mapping[str, Any]) -> None:
        try:
            with translated(f"create endpoint configuration {request[_NAME]}"):
                self._client.create_endpoint_config(**request)
        except AwsError as error:
            if not exists_already(error):
                raise on_refusal(error, self._models.role_arn) from error

    def _label(self, config: str) -> str | None:
        """The label of the model that a configuration serves; None where that is gone."""
        with self._lock:
            if config in self._labels:
                return self._labels[config]
        try:
            with translated(f"describe endpoint configuration {config}"):
                found = self._client.describe_endpoint_config(EndpointConfigName=config)
                model = self._client.describe_model(
                    ModelName=found["ProductionVariants"][0]["ModelName"]
                )
        except AwsError as error:
            if not_found(error):
                return None
            raise
        label = model.get("PrimaryContainer", {}).get("Environment", {}).get(VERSION_VARIABLE)
        with self._lock:
            self._labels[config] = label
        return label

    def _tidy(self, name: str, model: str, keep: set[str]) -> None:
        """Deletes the configurations of earlier models but for the one before, within a bound.

        Their SageMaker Models and packages stay: they cost nothing, and batch transform uses them too.
        What can't be deleted now is no reason to fail: the next deployment tries again.
        """
        prefix = content_name(model, {}, CONFIG).rpartition("-")[0] + "-"
        ours = re.compile(re.escape(prefix) + "[0-9a-f]+")
        its = {tag["Key"]: tag["Value"] for tag in tags(model, self._models.storage.project)}
        try:
            there = self._look(name) or {}
            # Another deployment may have begun when this one ended.
            uses = (there.get(_NAME), there.get("PendingDeploymentSummary", {}).get(_NAME))
            with translated("list endpoint configurations"):
                listed = self._client.list_endpoint_configs(
                    NameContains=prefix,
                    SortBy="CreationTime",
                    SortOrder="Ascending",
                    MaxResults=100,
                )["EndpointConfigs"]
            old = [
                one
                for one in listed
                if ours.fullmatch(one[_NAME]) and one[_NAME] not in (*keep, *uses)
            ]
            for one in old[:_TIDIED]:
                # Long names of several models may begin alike.
                if its.items() <= self._tags(one["EndpointConfigArn"]).items():
                    self._delete_config(one[_NAME])
        except AwsError as error:
            logger.warning("earlier endpoint configurations of %s stay: %s", model, error)

    def _delete_config(self, name: str) -> None:
        try:
            with translated(f"delete endpoint configuration {name}"):
                self._client.delete_endpoint_config(EndpointConfigName=name)
        except AwsError as error:
            if not not_found(error):
                raise

    # Endpoints

    def _look(self, name: str) -> dict[str, Any] | None:
        try:
            with translated(f"describe endpoint {name}"):
                return self._client.describe_endpoint(EndpointName=name)
        except AwsError as error:
            if not_found(error):
                return None
            raise

    def _delete(self, name: str, deadline: float) -> None:
        """Deletes an endpoint at rest, and waits until it is gone."""
        try:
            with translated(f"delete endpoint {name}"):
                self._client.delete_endpoint(EndpointName=name)
        except AwsError as error:
            if not not_found(error) and not is_busy(error):
                raise on_refusal(error, self._models.role_arn) from error
        left = self._settled(name, deadline, []).answer
        if left:
            raise DeploymentFailed(f"endpoint {name} is {left['EndpointStatus']}, and not deleted")

    def _check_ours(self, name: str, answer: Mapping[str, Any]) -> None:
        """Raises InvalidEndpoint for an endpoint of that name that isn't this deployment's."""
        if (
            not project_tag(self._models.storage.project).items()
            <= self._tags(answer["EndpointArn"]).items()
        ):
            raise InvalidEndpoint(
                f"there is an endpoint {name} in {self._aws.region} that this deployment has not made: "
                f"it lacks the tag {project_tag(self._models.storage.project)}. Give the model another "
                "name, or delete that endpoint"
            )

    def _tags(self, arn: str) -> Mapping[str, str]:
        with translated(f"list the tags of {arn}"):
            listed = self._client.list_tags(ResourceArn=arn)["Tags"]
        return {tag["Key"]: tag["Value"] for tag in listed}

    @property
    def _client(self) -> Any:
        return self._aws.client("sagemaker")


@contextmanager
def _unavailable() -> Iterator[None]:
    """What is AWS's trouble inside is the host's outside."""
    try:
        yield
    except AwsUnavailable as error:
        raise HostUnavailable(str(error)) from error
