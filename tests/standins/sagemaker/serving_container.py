"""The container of a Model: what its archive holds, run by this Python on a port of 127.0.0.1.

Images are not pulled. Beside the archive's own `code/inference.py` runs a small emulation of how the
toolkit in SageMaker's image calls it (`serving_toolkit`): that of the Hugging Face image where the
image's name says so, and otherwise that of the XGBoost image. An archive with a `code/serve.py` stands
for an image of somebody's own, whose `serve` that is.
"""

import http.client
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standins.sagemaker.aws_state import S3Location
from standins.sagemaker.container import Host, end_hosts, free_port
from standins.sagemaker.requests import EXECUTION_ROLE_KEY
from standins.sagemaker.watchdog import Watchdog

_TOOLKIT = Path(__file__).with_name("serving_toolkit.py")
_MULTI_MODEL_SERVER = "com.amazonaws.ml.mms.ModelServer"
_POLL_SECONDS = 0.05
_PING_SECONDS = 2.0
_ANSWER_SECONDS = 60.0
_GRACE_SECONDS = 30.0  # from SIGTERM to SIGKILL


class ContainerFailed(Exception):
    """A container that did not answer its pings; the message is what FailureReason says."""


@dataclass(frozen=True)
class ContainerAnswer:
    status: int
    headers: Mapping[str, str]  # with lower-case names
    body: bytes


@dataclass(frozen=True)
class ContainerSurroundings:
    """What containers need of the service. `write` is called with each line of a container's log."""

    folder: Path
    endpoint_url: str
    region: str
    s3: Any
    watchdog: Watchdog
    write: Callable[[str], None]


class ServingContainer:
    """One running container of a ContainerDefinition; `start` first, and `close` in the end."""

    def __init__(self, definition: Mapping[str, Any], around: ContainerSurroundings) -> None:
        self.image: str = definition["Image"]
        self.port = free_port()
        self._definition = definition
        self._around = around
        self._home = around.folder / f"container-{self.port}-{time.monotonic_ns()}"
        self._lines: list[str] = []
        self._host: Host | None = None

    def start(self) -> None:
        """Unpacks the archive and starts the process; whether it is well, `ping` tells.

        Raises ContainerFailed for an archive that can't be fetched.
        """
        model = self._home / "model"
        model.mkdir(parents=True)
        for part in ("output", "code"):
            (self._home / part).mkdir()
        address = self._definition.get("ModelDataUrl")
        if address is not None:
            self._fetch(S3Location.parse(address), model)
        self._host = Host(
            self._command(model), self._home, self._variables(), self._write, self._around.watchdog
        )

    def ping(self) -> bool:
        """Whether GET /ping is answered with 200."""
        try:
            return self.ask("GET", "/ping", b"", {}, _PING_SECONDS).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_until_healthy(self, seconds: float, go_on: Callable[[], bool] = lambda: True) -> None:
        """Pings until an answer is 200. Raises ContainerFailed where none is in time.

        A process that ends is started again, as SageMaker does.
        """
        deadline = time.monotonic() + seconds
        while not self.ping():
            if time.monotonic() > deadline or not go_on():
                raise ContainerFailed(
                    "The primary container for production variant did not pass the ping health "
                    f"check. Please check CloudWatch logs for this endpoint. {self.last_line}"
                )
            if self.exited:
                assert self._host is not None
                self._host.end()
                self._host = Host(
                    self._command(self._home / "model"),
                    self._home,
                    self._variables(),
                    self._write,
                    self._around.watchdog,
                )
            time.sleep(_POLL_SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float = _ANSWER_SECONDS,
    ) -> ContainerAnswer:
        """Any request to the container. Raises OSError and HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return ContainerAnswer(response.status, found, response.read())
        finally:
            connection.close()

    def invoke(self, body: bytes, content_type: str, accept: str | None) -> ContainerAnswer:
        """POST /invocations. Raises OSError and HTTPException."""
        headers = {"Content-Type": content_type} | ({"Accept": accept} if accept else {})
        return self.ask("POST", "/invocations", body, headers)

    @property
    def exited(self) -> bool:
        return self._host is None or self._host.exit_code() is not None

    @property
    def lines(self) -> list[str]:
        """What it has printed."""
        return list(self._lines)

    @property
    def last_line(self) -> str:
        return self._lines[-1] if self._lines else ""

    def close(self, grace_seconds: float = _GRACE_SECONDS) -> None:
        """SIGTERM, SIGKILL after the time of grace, and nothing is left of it."""
        if self._host is not None:
            end_hosts([self._host], grace_seconds)
        shutil.rmtree(self._home, ignore_errors=True)

    def _command(self, model: Path) -> list[str]:
        if (model / "code" / "serve.py").exists():
            return [sys.executable, str(model / "code" / "serve.py"), "serve"]
        kind = "huggingface" if "huggingface" in self.image else "xgboost"
        command = [sys.executable, str(_TOOLKIT), kind, str(model), str(self.port)]
        return [*command, _MULTI_MODEL_SERVER] if kind == "huggingface" else command

    def _variables(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "AWS_REGION": self._around.region,
            "AWS_ENDPOINT_URL": self._around.endpoint_url,
            "AWS_ACCESS_KEY_ID": EXECUTION_ROLE_KEY,
            "AWS_SECRET_ACCESS_KEY": "secret of a stand-in",
            "SAGEMAKER_BASE_DIR": str(self._home),
            "SM_MODEL_DIR": str(self._home / "model"),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            **self._definition.get("Environment", {}),
        }

    def _write(self, line: str) -> None:
        self._lines.append(line)
        self._around.write(line)

    def _fetch(self, archive: S3Location, target: Path) -> None:
        from botocore.exceptions import ClientError

        packed = self._home / "model.tar.gz"
        try:
            content = self._around.s3.get_object(Bucket=archive.bucket, Key=archive.key)["Body"]
            with packed.open("wb") as file:
                shutil.copyfileobj(content, file)
            with tarfile.open(packed, "r:gz") as tar:
                tar.extractall(target, filter="data")
        except (ClientError, tarfile.TarError, EOFError, OSError) as error:
            raise ContainerFailed(
                f"Failed to download or extract model data from {archive.uri}: {error}"
            ) from error
        finally:
            packed.unlink(missing_ok=True)


def definitions_of(model: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The ContainerDefinitions of a CreateModel request, in the order in which they answer."""
    if model.get("PrimaryContainer"):
        yield model["PrimaryContainer"]
    yield from model.get("Containers", [])
