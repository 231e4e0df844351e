"""Groups of attributes for what a model's champion is used for."""

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sf_sagemaker.components.attributes import check_instance_type
from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.components.transform_attributes import TransformBounds
from sf_sagemaker.periods import parse_duration
from sf_sagemaker.serving.batch import TransformOptions
from sf_sagemaker.serving.endpoint import EndpointOptions
from sf_sagemaker.serving.errors import InvalidEndpoint
from sf_sagemaker.serving.hosting import AlarmRules, Hosting, Instances, Rollout, Serverless

_HOURS = 730  # of a month
# ContainerStartupHealthCheckTimeoutInSeconds in the API reference, ProductionVariant.
_LONGEST_START = timedelta(hours=1)


class ServerlessMachines(Attributes):
    """Machines of SageMaker's that come with requests, and are billed by them."""

    memory: int = Field(default=2048, description="MB: a multiple of 1024 up to 6144.")
    max_concurrency: int = Field(
        default=5, description="Requests at a time, up to 200; more are turned away."
    )


class EndpointRollout(Attributes):
    """How an update goes on SageMaker: from the machines of the model before to new ones."""

    traffic: Literal["all_at_once", "canary", "linear"] = Field(
        default="all_at_once",
        description="all_at_once: all of it in one step. canary: a step, and then the rest. linear: in "
        "steps. The last two take at least two instances.",
    )
    step: int = Field(
        default=10,
        description="Percent of the instances that a canary, or each step, has; up to 50, and at least "
        "10 where traffic is linear.",
    )
    wait: str = Field(
        default="5 minutes",
        description="How long the alarms are watched after each step.",
        examples=["10 minutes"],
    )
    termination_wait: str | None = Field(
        default=None,
        description="How long the machines of the model before stay in the end, for a rollback that "
        "needs no new ones; not at all without it.",
        examples=["10 minutes"],
    )
    max_duration: str = Field(
        default="1 hour",
        description="An update that takes longer is rolled back; 10 minutes to 8 hours.",
    )

    @field_validator("wait", "termination_wait", "max_duration")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value

    def rollout(self) -> Rollout:
        """The same, as an endpoint host takes it. Raises InvalidEndpoint."""
        return Rollout(
            traffic=self.traffic,
            step_percent=self.step,
            wait=parse_duration(self.wait),
            termination_wait=parse_duration(self.termination_wait)
            if self.termination_wait
            else timedelta(0),
            max_duration=parse_duration(self.max_duration),
        )


class EndpointAlarms(Attributes):
    """The CloudWatch alarms that roll an update back."""

    max_error_rate: float | None = Field(
        default=0.01,
        description="Share of requests that may be answered with a status of 500 or more; null for no "
        "such alarm.",
    )
    max_latency_ms: int | None = Field(
        default=None,
        description="Milliseconds that the model may take for 99 of 100 requests; no such alarm "
        "without it.",
        examples=[300],
    )
    period: str = Field(default="1 minute", description="Time over which both are taken.")
    names: list[str] = Field(
        default=[], description="Alarms of your own making, by name, that roll back as well."
    )

    _latency = within("max_latency_ms", least=1, most=60_000)

    @field_validator("period")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value

    def rules(self) -> AlarmRules:
        """The same, as an endpoint host takes it. Raises InvalidEndpoint."""
        latency = self.max_latency_ms
        return AlarmRules(
            max_error_rate=self.max_error_rate,
            max_latency=None if latency is None else timedelta(milliseconds=latency),
            period=parse_duration(self.period),
            names=tuple(self.names),
        )


class Endpoint(Attributes):
    """The champion behind an HTTP endpoint, which follows it.

    Locally a process of this machine, for which instances, rollout, alarms and approval mean nothing.
    """

    enabled: bool = Field(default=True, description="Whether there is an endpoint.")
    port: int | None = Field(
        default=None,
        description="Port on 127.0.0.1 of a local endpoint; the first free one from 8090 on without "
        "it, which is kept.",
    )
    start_timeout: str = Field(
        default="5 minutes",
        description="How long a model may take to load and to answer its golden rows.",
        examples=["90 seconds"],
    )
    follow_champion: bool = Field(
        default=True,
        description="Whether a sensor deploys a new champion, and an endpoint that is down.",
    )
    instance_type: str = Field(default="ml.m5.large", description="SageMaker instance type.")
    instance_count: int = Field(
        default=1, description="Instances, in as many availability zones as there are."
    )
    serverless: ServerlessMachines | None = Field(
        default=None, description="Serverless machines in place of instances; updated at once."
    )
    image: str | None = Field(
        default=None,
        description="An inference image in place of SageMaker's own, which has the model's libraries.",
    )
    approval: Literal["automatic", "manual"] = Field(
        default="automatic",
        description="manual: a model is deployed once a person has approved it in SageMaker's Model "
        "Registry.",
    )
    rollout: EndpointRollout = Field(
        default=EndpointRollout(), description="How an update goes on SageMaker."
    )
    alarms: EndpointAlarms = Field(
        default=EndpointAlarms(), description="What rolls an update back on SageMaker."
    )
    on_alarm: Literal["roll_back_champion", "keep"] = Field(
        default="roll_back_champion",
        description="What becomes of a champion whose deployment was rolled back by an alarm: the one "
        "that answers is champion again, or it stays champion, and isn't deployed by itself again.",
    )
    price_per_hour: float | None = Field(
        default=None, description="Of one instance; with it, metadata says what the endpoint costs."
    )

    _port = within("port", least=1024, most=65535)
    _count = within("instance_count", least=1)
    _price = within("price_per_hour", least=0)

    @field_validator("start_timeout")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        if parse_duration(value) > _LONGEST_START:
            raise ValueError("must be at most 1 hour")
        return value

    @field_validator("instance_type")
    @classmethod
    def _is_instance_type(cls, value: str) -> str:
        return check_instance_type(value)

    @model_validator(mode="after")
    def _can_be_hosted(self) -> "Endpoint":
        try:
            self.options()
        except InvalidEndpoint as error:
            raise ValueError(str(error)) from None
        return self

    def options(self) -> EndpointOptions:
        """The same, as an endpoint host takes it."""
        return EndpointOptions(
            port=self.port,
            start_timeout=parse_duration(self.start_timeout),
            hosting=Hosting(
                machines=Instances(self.instance_type, self.instance_count)
                if self.serverless is None
                else Serverless(self.serverless.memory, self.serverless.max_concurrency),
                image=self.image,
                approval=self.approval,
                rollout=self.rollout.rollout(),
                alarms=self.alarms.rules(),
            ),
        )

    def cost_per_month(self) -> float | None:
        """Of 730 hours, without updates, during which there are twice as many machines; None without a
        price, or serverless."""
        if self.price_per_hour is None or self.serverless is not None:
            return None
        return self.price_per_hour * self.instance_count * _HOURS


class Transform(TransformBounds):
    """A SageMaker batch transform job for each large period; local deployments score it themselves."""

    settings = "predictions.transform"

    min_rows: int = Field(
        default=1_000_000, description="Periods of fewer rows are scored in the run's own process."
    )
    instance_type: str = Field(default="ml.m5.xlarge", description="SageMaker instance type.")
    instance_count: int = Field(
        default=1, description="Instances; each takes some of the parts, of batch_rows rows each."
    )
    max_concurrent: int = Field(
        default=4,
        description="Requests that an instance answers at a time: as many as it has processors, or "
        "one where the model is a language model.",
    )
    max_payload_mb: int = Field(
        default=4, description="Size of a request, in MB: as many rows as fit into it."
    )
    image: str | None = Field(
        default=None, description="An inference image in place of SageMaker's own."
    )

    _rows = within("min_rows", least=1)
    _instances = within("instance_count", least=1, most=100)
    _concurrent = within("max_concurrent", least=1, most=20)
    _payload = within("max_payload_mb", least=1, most=5)

    @field_validator("instance_type")
    @classmethod
    def _is_instance_type(cls, value: str) -> str:
        return check_instance_type(value)

    @property
    def hosts(self) -> int:
        return self.instance_count

    def options(self) -> TransformOptions:
        """The same, as batch scoring takes it."""
        return TransformOptions(
            min_rows=self.min_rows,
            limits=self.limits(),
            instance_count=self.instance_count,
            max_concurrent=self.max_concurrent,
            max_payload_mb=self.max_payload_mb,
            image=self.image,
        )


class Predictions(Attributes):
    """Each period's rows, scored by the champion in force and written into the warehouse."""

    enabled: bool = Field(default=True, description="Whether periods are scored.")
    batch_rows: int = Field(
        default=100_000, description="Rows that are read, scored and written at a time."
    )
    transform: Transform | None = Field(
        default=None,
        description="Score large periods by a batch transform job, where SageMaker is deployed to.",
    )

    _rows = within("batch_rows", least=1)
