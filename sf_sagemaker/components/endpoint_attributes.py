"""Groups of attributes for what a model's champion is used for."""

from pydantic import Field, field_validator

from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.periods import parse_duration
from sf_sagemaker.serving.endpoint import EndpointOptions


class Endpoint(Attributes):
    """The champion behind an HTTP endpoint, which follows it."""

    enabled: bool = Field(default=True, description="Whether there is an endpoint.")
    port: int | None = Field(
        default=None,
        description="Port on 127.0.0.1 of a local endpoint; any free one without it, which is kept.",
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

    _port = within("port", least=1024, most=65535)

    @field_validator("start_timeout")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value

    def options(self) -> EndpointOptions:
        """The same, as an endpoint host takes it."""
        return EndpointOptions(port=self.port, start_timeout=parse_duration(self.start_timeout))


class Predictions(Attributes):
    """Each period's rows, scored by the champion in force and written into the warehouse."""

    enabled: bool = Field(default=True, description="Whether periods are scored.")
    batch_rows: int = Field(
        default=100_000, description="Rows that are read, scored and written at a time."
    )

    _rows = within("batch_rows", least=1)
