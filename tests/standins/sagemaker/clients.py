"""boto3 clients of the service itself, as a caller and as a job's execution role."""

import threading
from typing import Any


class Clients:
    """Clients that act with one access key, made once each; threads may share boto3's clients."""

    def __init__(self, endpoint_url: str, access_key: str) -> None:
        self._endpoint_url = endpoint_url
        self._access_key = access_key
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], Any] = {}

    def get(self, service: str, region: str) -> Any:
        with self._lock:
            if (service, region) not in self._clients:
                self._clients[service, region] = make_client(
                    self._endpoint_url, service, region, self._access_key
                )
            return self._clients[service, region]

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()


def make_client(
    endpoint_url: str, service: str, region: str, access_key: str, attempts: int = 3
) -> Any:
    """A client that depends on nothing in this process's environment."""
    import boto3
    from botocore.config import Config

    return boto3.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key="secret of a stand-in",
        region_name=region,
    ).client(
        service,  # type: ignore[call-overload]
        endpoint_url=endpoint_url,
        config=Config(
            max_pool_connections=50,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path"},
        ),
    )
