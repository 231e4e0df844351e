"""The operations on endpoints and their configurations, and InvokeEndpoint, which a container answers."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standins.sagemaker import endpoint as life
from standins.sagemaker.aws_state import AwsState
from standins.sagemaker.endpoint import Endpoint, Pace
from standins.sagemaker.faults import Faults
from standins.sagemaker.fleet import Fleet
from standins.sagemaker.models import Models
from standins.sagemaker.quotas import ENDPOINT, Quotas
from standins.sagemaker.requests import Answer, Operations, Request, ValidationError
from standins.sagemaker.runner import Surroundings
from standins.sagemaker.serving_container import ContainerSurroundings, definitions_of

_VERSION = "x-amzn-sagemaker-custom-attributes"
_PASSED_ON = (_VERSION, "content-type")


@dataclass
class Config:
    request: dict[str, Any]
    arn: str
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        return self.request["EndpointConfigName"]

    @property
    def variant(self) -> Mapping[str, Any]:
        return self.request["ProductionVariants"][0]


class Endpoints:
    """All endpoints of an account, by region and name."""

    def __init__(
        self,
        around: Surroundings,
        state: AwsState,
        faults: Faults,
        quotas: Quotas,
        models: Models,
    ) -> None:
        self._around = around
        self._account = state.account
        self._faults = faults
        self._quotas = quotas
        self._models = models
        self._lock = threading.Lock()
        self._configs: dict[tuple[str, str], Config] = {}
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._threads: list[threading.Thread] = []

    def operations(self) -> Operations:
        return {
            ("sagemaker", "CreateEndpointConfig"): self._create_config,
            ("sagemaker", "DescribeEndpointConfig"): self._describe_config,
            ("sagemaker", "DeleteEndpointConfig"): self._delete_config,
            ("sagemaker", "ListEndpointConfigs"): self._list_configs,
            ("sagemaker", "CreateEndpoint"): self._create,
            ("sagemaker", "UpdateEndpoint"): self._update,
            ("sagemaker", "DescribeEndpoint"): self._describe,
            ("sagemaker", "DeleteEndpoint"): self._delete,
            ("sagemaker-runtime", "InvokeEndpoint"): self._invoke,
        }

    # For tests

    def __getitem__(self, name: str) -> Endpoint:
        """The endpoint of that name, in whatever region."""
        return next(found for (_, its), found in self._endpoints.items() if its == name)

    def configs(self) -> list[str]:
        """The names of all configurations, oldest first."""
        return [config.name for config in self._configs.values()]

    def tags(self, arn: str) -> dict[str, str] | None:
        """The tags of an endpoint or a configuration; None where there is none of that ARN."""
        for found in [*self._endpoints.values(), *self._configs.values()]:
            if found.arn == arn:
                return {tag["Key"]: tag["Value"] for tag in found.request.get("Tags", [])}
        return None

    def close(self) -> None:
        """Ends all containers; the threads end because the service is closing."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        for endpoint in self._endpoints.values():
            for fleet in (endpoint.blue, endpoint.green):
                if fleet is not None:
                    fleet.retire(0)

    # Configurations

    def _create_config(self, request: Request) -> Mapping[str, Any]:
        wanted = dict(request.parameters)
        name = wanted["EndpointConfigName"]
        arn = self._arn(request, "endpoint-config", name)
        for variant in wanted["ProductionVariants"]:
            _check_variant(variant)
            model = variant["ModelName"]
            if self._models.find(request.region, model) is None:
                raise ValidationError(
                    f'Could not find model "{self._arn(request, "model", model)}".'
                )
        if len(wanted["ProductionVariants"]) > 1:
            raise ValidationError("This stand-in serves one variant")
        with self._lock:
            if (request.region, name) in self._configs:
                raise ValidationError(
                    f'Cannot create already existing endpoint configuration "{arn}".'
                )
            self._configs[request.region, name] = Config(wanted, arn)
        return {"EndpointConfigArn": arn}

    def _describe_config(self, request: Request) -> Mapping[str, Any]:
        config = self._config(request, request.parameters["EndpointConfigName"])
        return {
            "EndpointConfigName": config.name,
            "EndpointConfigArn": config.arn,
            "ProductionVariants": config.request["ProductionVariants"],
            "CreationTime": config.created,
        }

    def _delete_config(self, request: Request) -> Mapping[str, Any]:
        config = self._config(request, request.parameters["EndpointConfigName"])
        with self._lock:
            del self._configs[request.region, config.name]
        return {}

    def _list_configs(self, request: Request) -> Mapping[str, Any]:
        wanted = request.parameters
        with self._lock:
            found = [
                config
                for (region, name), config in self._configs.items()
                if region == request.region and wanted.get("NameContains", "") in name
            ]
        if wanted.get("SortOrder", "Descending") == "Descending":
            found.reverse()
        return {
            "EndpointConfigs": [
                {
                    "EndpointConfigName": config.name,
                    "EndpointConfigArn": config.arn,
                    "CreationTime": config.created,
                }
                for config in found[: wanted.get("MaxResults") or 10]
            ]
        }

    # Endpoints

    def _create(self, request: Request) -> Mapping[str, Any]:
        wanted = dict(request.parameters)
        name = wanted["EndpointName"]
        config = self._config(request, wanted["EndpointConfigName"])
        arn = self._arn(request, "endpoint", name)
        with self._lock:
            if (request.region, name) in self._endpoints:
                raise ValidationError(f'Cannot create already existing endpoint "{arn}".')
            self._check_quota(request, config)
            endpoint = Endpoint(wanted, arn, config.name)
            self._endpoints[request.region, name] = endpoint
        fleet = self._fleet(request.region, config)
        self._run(lambda: life.create(endpoint, fleet, self._pace(request, endpoint)))
        return {"EndpointArn": arn}

    def _update(self, request: Request) -> Mapping[str, Any]:
        wanted = request.parameters
        endpoint = self._endpoint(request)
        config = self._config(request, wanted["EndpointConfigName"])
        deployment = wanted.get("DeploymentConfig")
        if deployment is not None:
            self._check_deployment(request, config, deployment)
        with endpoint.changed:
            if not endpoint.settled:
                raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
            if endpoint.status != "InService":
                raise ValidationError(
                    f'Cannot update endpoint "{endpoint.arn}" with status "{endpoint.status}".'
                )
            self._check_quota(request, config)
            endpoint.stale = endpoint.describe()
            endpoint.stale_until = time.monotonic() + self._around.settings.stale_seconds
            endpoint.pending = config.name
            endpoint.last_deployment = deployment
            endpoint.enter("Updating")
        fleet = self._fleet(request.region, config)
        self._run(lambda: life.update(endpoint, fleet, deployment, self._pace(request, endpoint)))
        return {"EndpointArn": endpoint.arn}

    def _describe(self, request: Request) -> Mapping[str, Any]:
        return self._endpoint(request).describe()

    def _delete(self, request: Request) -> Mapping[str, Any]:
        endpoint = self._endpoint(request)
        if endpoint.status in ("Creating", "Updating", "RollingBack", "Deleting"):
            raise ValidationError(f'Cannot delete in-progress endpoint "{endpoint.arn}".')
        endpoint.enter("Deleting")

        def delete() -> None:
            if endpoint.blue is not None:
                endpoint.blue.retire(self._around.settings.retire_seconds)
                endpoint.blue = None
            with self._lock:
                del self._endpoints[request.region, endpoint.name]

        self._run(delete)
        return {}

    def _invoke(self, request: Request) -> Answer:
        name = request.parameters["EndpointName"]
        endpoint = self._endpoints.get((request.region, name))
        fleet = endpoint.fleet() if endpoint is not None else None
        if fleet is None:
            raise ValidationError(f"Endpoint {name} of account {self._account} not found.")
        if len(request.body) > 6 * 2**20:
            raise ValidationError("Body must have length less than or equal to 6291456")
        content_type = request.headers.get("Content-Type", "")
        try:
            answer = fleet.invoke(request.body, content_type, request.headers.get("Accept"))
        except (OSError, http.client.HTTPException) as error:
            return self._model_error(request, 500, str(error).encode())
        if answer.status >= 400:
            return self._model_error(request, answer.status, answer.body)
        kept = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        kept["x-amzn-invoked-production-variant"] = fleet.variant["VariantName"]
        return Answer(200, kept, answer.body)

    def _model_error(self, request: Request, status: int, body: bytes) -> Answer:
        kind = "client" if status < 500 else "server"
        said = body.decode(errors="replace")
        content = {
            "Message": f'Received {kind} error ({status}) from primary with message "{said}".',
            "OriginalStatusCode": status,
            "OriginalMessage": said,
        }
        headers = {"Content-Type": "application/json", "x-amzn-errortype": "ModelError"}
        return Answer(424, headers, json.dumps(content).encode())

    # What all of them need

    def _run(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="endpoint", daemon=True)
        with self._lock:
            self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        thread.start()

    def _pace(self, request: Request, endpoint: Endpoint) -> Pace:
        def ringing(names: Sequence[str]) -> list[str]:
            # As SageMaker does, with the execution role.
            client = self._around.clients.get("cloudwatch", request.region)
            answer = client.describe_alarms(AlarmNames=list(names))
            return [
                alarm["AlarmName"]
                for alarm in answer["MetricAlarms"]
                if alarm["StateValue"] == "ALARM"
            ]

        return Pace(
            settings=self._around.settings,
            go_on=lambda: not self._around.closing.is_set(),
            ringing=ringing,
            fault=self._faults.take_for_deployment(),
        )

    def _fleet(self, region: str, config: Config) -> Fleet:
        model = self._models.find(region, config.variant["ModelName"])
        definition: Mapping[str, Any] = {}
        if model is not None:
            definition = next(definitions_of(model.request))
        around = ContainerSurroundings(
            folder=self._around.folder / "endpoints",
            endpoint_url=self._around.endpoint_url,
            region=region,
            s3=self._around.clients.get("s3", region),
            watchdog=self._around.watchdog,
            write=lambda line: None,
        )
        return Fleet(config.request, definition, around)

    def _check_quota(self, request: Request, config: Config) -> None:
        """For a moment, an update has the instances of both fleets."""
        kind = config.variant.get("InstanceType")
        if kind is None:
            return
        used = sum(
            self._configs[region, endpoint.config_name].variant["InitialInstanceCount"]
            for (region, _), endpoint in self._endpoints.items()
            if region == request.region
            and (region, endpoint.config_name) in self._configs
            and self._configs[region, endpoint.config_name].variant.get("InstanceType") == kind
        )
        self._quotas.check_use(kind, config.variant["InitialInstanceCount"], ENDPOINT, used)

    def _check_deployment(
        self, request: Request, config: Config, deployment: Mapping[str, Any]
    ) -> None:
        if "ServerlessConfig" in config.variant:
            raise ValidationError(
                "DeploymentConfig is not supported for endpoints with serverless variants"
            )
        routing = deployment.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
        size = routing.get("CanarySize", {})
        if size.get("Type") == "CAPACITY_PERCENT" and size["Value"] > 50:
            raise ValidationError("CanarySize must be less than or equal to 50 percent")
        names = [
            alarm["AlarmName"]
            for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])
        ]
        client = self._around.clients.get("cloudwatch", request.region)
        if names:
            found = client.describe_alarms(AlarmNames=names)["MetricAlarms"]
            missing = set(names) - {alarm["AlarmName"] for alarm in found}
            if missing:
                raise ValidationError(f"Alarms {sorted(missing)} do not exist")

    def _config(self, request: Request, name: str) -> Config:
        config = self._configs.get((request.region, name))
        if config is None:
            arn = self._arn(request, "endpoint-config", name)
            raise ValidationError(f'Could not find endpoint configuration "{arn}".')
        return config

    def _endpoint(self, request: Request) -> Endpoint:
        name = request.parameters["EndpointName"]
        endpoint = self._endpoints.get((request.region, name))
        if endpoint is None:
            arn = self._arn(request, "endpoint", name)
            raise ValidationError(f'Could not find endpoint "{arn}".')
        return endpoint

    def _arn(self, request: Request, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{request.region}:{self._account}:{kind}/{name}"


def _check_variant(variant: Mapping[str, Any]) -> None:
    serverless = variant.get("ServerlessConfig")
    if serverless is None:
        if not variant.get("InstanceType") or not variant.get("InitialInstanceCount"):
            raise ValidationError(
                "A variant needs InstanceType and InitialInstanceCount, or a ServerlessConfig"
            )
        return
    for name in (
        "InstanceType",
        "InitialInstanceCount",
        "ContainerStartupHealthCheckTimeoutInSeconds",
        "ModelDataDownloadTimeoutInSeconds",
    ):
        if variant.get(name):
            raise ValidationError(f"{name} is not supported for a variant with ServerlessConfig")
    if serverless["MemorySizeInMB"] % 1024:
        raise ValidationError("MemorySizeInMB must be one of 1024, 2048, 3072, 4096, 5120, 6144")
