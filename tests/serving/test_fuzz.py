"""Whatever is sent to an endpoint: an answer or a 4xx with a reason in JSON, and it goes on answering."""

import http.client
import json
import socket
import string
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.models import ROW, Artifacts
from sf_sagemaker.containers.serving.requests import MAX_BODY
from sf_sagemaker.serving.endpoint import EndpointOptions, ServedModel
from sf_sagemaker.serving.local import LocalEndpointHost

pytestmark = pytest.mark.slow

BODY = json.dumps({"instances": [ROW]}).encode()


@dataclass(frozen=True)
class Served:
    """An endpoint's port, and the process that must survive it all."""

    host: LocalEndpointHost
    port: int

    def send(
        self,
        body: bytes,
        headers: dict[str, str],
        *,
        method: str = "POST",
        path: str = "/invocations",
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    artifacts = Artifacts(folder / "artifacts")
    artifacts.add("job-1")
    host = LocalEndpointHost(folder / "endpoints", artifacts.fetch)
    model = ServedModel("houses", 1, "job-1", "", "xgboost")
    description = host.deploy("houses", model, EndpointOptions()).description
    assert description.address is not None
    port = int(description.address.split(":")[2].split("/")[0])
    yield Served(host, port)
    assert host.describe("houses").restarts == 0
    host.stop("houses")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "rooms": json_values,
        "distance": json_values,
        "area": json_values | st.sampled_from(["north", "south"]),
        "other": json_values,
    },
)
bodies = st.one_of(
    st.binary(max_size=500),
    st.text(max_size=500).map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(rows, max_size=4).map(lambda value: json.dumps({"instances": value}).encode()),
    st.lists(st.lists(st.text(alphabet='3.5,"\n southrm\x00'), max_size=4), max_size=4).map(
        lambda lines: "\n".join(",".join(cells) for cells in lines).encode()
    ),
)
tokens = st.text(alphabet=string.ascii_letters + string.digits + "/;=*+-., ", max_size=40)
types = st.sampled_from(["application/json", "text/csv", "", "text/csv; charset=utf-16"]) | tokens


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, content_type=types, accept=types)
def test_any_body_is_answered_or_refused_in_json(
    served: Served, body: bytes, content_type: str, accept: str
) -> None:
    status, content, headers = served.send(
        body, {"Content-Type": content_type.strip(), "Accept": accept.strip()}
    )
    assert status == 200 or 400 <= status < 500
    if status != 200:
        assert headers["Content-Type"] == "application/json"
        error = json.loads(content)["error"]
        assert "Traceback" not in error
        assert 0 < len(error) < 2000


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    path=st.text(alphabet=string.ascii_letters + string.digits + "/%.?&=~", max_size=30),
)
def test_any_path_and_method(served: Served, method: str, path: str) -> None:
    status, content, _ = served.send(b"", {}, method=method, path=f"/{path}")
    assert 400 <= status < 500
    assert json.loads(content)["error"]


def test_paths_and_methods_that_there_are(served: Served) -> None:
    assert served.send(b"", {}, method="GET", path="/ping")[0] == 200
    status, content, headers = served.send(b"", {}, method="GET")
    assert (status, headers["Allow"]) == (405, "POST")
    assert "takes POST, not GET" in json.loads(content)["error"]
    assert served.send(b"", {}, path="/ping")[0] == 405
    assert served.send(BODY, {"Content-Encoding": "gzip"})[0] == 415


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.binary(max_size=300))
def test_bytes_that_are_no_request(served: Served, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(content + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer == b"" or answer.split()[1][:1] in (b"2", b"4")
    assert served.send(BODY, {})[0] == 200


def test_large_bodies(served: Served) -> None:
    many = json.dumps({"instances": [ROW] * 60_000}).encode()
    assert 2_000_000 < len(many) < MAX_BODY
    status, content, _ = served.send(many, {})
    assert status == 200
    assert len(json.loads(content)["predictions"]) == 60_000
    # The server answers before it has read it all, which a client may see as a closed connection.
    with suppress(ConnectionError):
        status, content, _ = served.send(b" " * (MAX_BODY + 1), {})
        assert status == 413
        assert "send fewer rows" in json.loads(content)["error"]
    assert served.send(BODY, {})[0] == 200


def test_clients_that_go_away(served: Served) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"
            )
    assert served.send(BODY, {})[0] == 200
