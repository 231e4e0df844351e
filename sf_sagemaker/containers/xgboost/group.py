"""The hosts of a training as one group, over xgboost.collective.

Every step here is collective: all hosts of the group take it, or the others wait for the one that
doesn't until a timeout. A group of one host needs no network.
"""

import os
import socket
import time
from types import TracebackType
from typing import Final

import numpy as np
from xgboost import collective
from xgboost.core import XGBoostError
from xgboost.tracker import RabitTracker

from sf_sagemaker.containers.environment import Environment
from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.xgboost.watch import Watch, listen, watch_followers, watch_leader

_PORT: Final = 9099
_TIMEOUT: Final = 1800.0  # seconds that hosts may differ in reading their data
_RETRY_SECONDS: Final = 0.5


class PeerFailed(ContainerError):
    """Another host of the training failed, or never came."""


class Group:
    """The hosts that train together; use as a context manager, which leaves the group at its end.

    Hosts meet at the first one, under SF_SAGEMAKER_TRACKER_URI and SF_SAGEMAKER_TRACKER_PORT where
    they are set. SF_SAGEMAKER_PEER_TIMEOUT is how long they wait for each other, in seconds.
    """

    def __init__(self, environment: Environment) -> None:
        self.hosts: tuple[str, ...] = environment.hosts
        self._host = environment.current_host
        self._address = os.environ.get("SF_SAGEMAKER_TRACKER_URI")
        self._port = int(os.environ.get("SF_SAGEMAKER_TRACKER_PORT", _PORT))
        self._timeout = float(os.environ.get("SF_SAGEMAKER_PEER_TIMEOUT", _TIMEOUT))
        self._tracker: RabitTracker | None = None
        self._watch: Watch | None = None

    @property
    def rank(self) -> int:
        """This host's position among the group's hosts."""
        return self.hosts.index(self._host)

    @property
    def leads(self) -> bool:
        """Whether this is the host that writes what the group makes."""
        return self.rank == 0

    def __enter__(self) -> "Group":
        self._join(self._port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the process ends, which the others notice by their broken connections.
        if error is None:
            self._leave()

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Each host's values, float64 of shape (values,), as a matrix of shape (hosts, values)."""
        table = np.zeros((len(self.hosts), len(values)))
        table[self.rank] = values
        return collective.allreduce(table, collective.Op.SUM).reshape(table.shape)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some host."""
        return bool(collective.allreduce(np.array([flag], dtype=np.int32), collective.Op.MAX)[0])

    def broadcast(self, content: bytes | None) -> bytes:
        """The leading host's content, on all hosts; the others' is ignored."""
        length = np.array([len(content) if self.leads and content is not None else 0], np.int64)
        size = int(collective.allreduce(length, collective.Op.MAX).max())
        buffer = np.zeros(size, dtype=np.uint8)
        if self.leads and content is not None:
            buffer[:] = np.frombuffer(content, dtype=np.uint8)
        return collective.allreduce(buffer, collective.Op.MAX).tobytes() if size else b""

    def narrow(self, members: tuple[str, ...]) -> bool:
        """Goes on with some of the hosts, under the first of them. False on a host that is out."""
        if members == self.hosts:
            return True
        # The new leader opens its meeting point, and tells the port while all still hear it.
        tracker = None
        port = np.zeros(1, dtype=np.int64)
        if self._host == members[0] and len(members) > 1:
            tracker = self._open(members, 0)
            port[0] = int(tracker.worker_args()["dmlc_tracker_port"])
        port = collective.allreduce(port, collective.Op.MAX)
        self._leave()
        self.hosts = members if self._host in members else ()
        if not self.hosts:
            return False
        self._tracker = tracker
        self._join(int(port[0]))
        return True

    def _join(self, port: int) -> None:
        if len(self.hosts) <= 1:
            return
        if self.leads and self._tracker is None:
            self._tracker = self._open(self.hosts, port)
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                collective.init(
                    dmlc_tracker_uri=self._resolve(self.hosts[0]),
                    dmlc_tracker_port=port,
                    # Ranks follow the sorted task ids, so that they are the same in each run.
                    dmlc_task_id=f"{self.rank:05d}",
                    dmlc_retry=1,
                    dmlc_timeout=int(self._timeout),
                )
                self._start_watch()
                return
            except (XGBoostError, socket.gaierror) as error:
                # A meeting point that isn't open yet is no failure; all else is.
                early = isinstance(error, socket.gaierror) or "connect to the tracker" in str(error)
                if not early or time.monotonic() > deadline:
                    raise PeerFailed(
                        f"{self._host} waited for {', '.join(self.hosts)} and they did not all "
                        f"come within {self._timeout:g} seconds: see the logs of the others"
                    ) from error
            time.sleep(_RETRY_SECONDS)

    def _start_watch(self) -> None:
        """Connects the hosts to the leading one, whose port a collective step tells them."""
        address = self._resolve(self.hosts[0])
        listener = listen(address) if self.leads else None
        port = np.array([listener.getsockname()[1] if listener else 0], dtype=np.int64)
        port = collective.allreduce(port, collective.Op.MAX)
        try:
            if listener is not None:
                self._watch = watch_followers(listener, len(self.hosts) - 1, self._timeout)
            else:
                self._watch = watch_leader(address, int(port[0]), self._timeout)
        except OSError as error:  # a TimeoutError too
            raise PeerFailed(
                f"{self._host} lost another host while they connected: {error}. See the logs of "
                "the others"
            ) from error

    def _leave(self) -> None:
        if len(self.hosts) <= 1:
            return
        if self._watch is not None:
            # All are here, or this step fails: nobody leaves while another still counts on it.
            self.any(False)
            self._watch.leave()
            self._watch = None
        collective.finalize()
        if self._tracker is not None:
            self._tracker.wait_for(timeout=int(self._timeout))
            self._tracker = None

    def _open(self, members: tuple[str, ...], port: int) -> RabitTracker:
        try:
            tracker = RabitTracker(
                n_workers=len(members),
                host_ip=self._resolve(members[0]),
                port=port,
                sortby="task",
                timeout=int(self._timeout),
            )
        except XGBoostError as error:
            raise PeerFailed(
                f"{self._host} cannot listen for the others at port {port}, which something else "
                "may hold: set SF_SAGEMAKER_TRACKER_PORT to a free one"
            ) from error
        tracker.start()
        return tracker

    def _resolve(self, host: str) -> str:
        return self._address or socket.gethostbyname(host)
