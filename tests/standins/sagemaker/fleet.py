"""The instances behind an endpoint: the containers of one endpoint configuration, which answer requests."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from standins.sagemaker.serving_container import (
    ContainerAnswer,
    ContainerFailed,
    ContainerSurroundings,
    ServingContainer,
)

_DRAIN_SECONDS = 30.0


class Fleet:
    """One container stands for all instances of the configuration's variant."""

    def __init__(
        self,
        config: Mapping[str, Any],
        definition: Mapping[str, Any],
        around: ContainerSurroundings,
    ) -> None:
        self.config_name: str = config["EndpointConfigName"]
        self.variant: Mapping[str, Any] = config["ProductionVariants"][0]
        self._container = ServingContainer(definition, around)
        self._changed = threading.Condition()
        self._in_flight = 0

    @property
    def instances(self) -> int:
        return self.variant.get("InitialInstanceCount") or 0

    def start(self, seconds: float, go_on: Callable[[], bool]) -> None:
        """Raises ContainerFailed where it doesn't get well in time."""
        try:
            self._container.start()
            self._container.wait_until_healthy(seconds, go_on)
        except ContainerFailed:
            self._container.close(0)
            raise

    def invoke(self, body: bytes, content_type: str, accept: str | None) -> ContainerAnswer:
        """Raises OSError and HTTPException where the container doesn't answer."""
        with self._asking():
            return self._container.invoke(body, content_type, accept)

    def retire(self, grace_seconds: float = _DRAIN_SECONDS) -> None:
        """Ends it once its requests are answered."""
        deadline = time.monotonic() + grace_seconds
        with self._changed:
            self._changed.wait_for(
                lambda: self._in_flight == 0, max(0.0, deadline - time.monotonic())
            )
        # The toolkits' servers answer nothing any more that they would need time for.
        self._container.close(0)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()
