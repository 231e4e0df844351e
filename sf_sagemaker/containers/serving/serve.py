"""The script that a serving container starts: it lies at the root of the code folder, as serve.py.

In a container it listens on the port that SageMaker names, 8080, on the addresses that
SF_SAGEMAKER_BIND says (0.0.0.0 there; only this machine otherwise).
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from sf_sagemaker.containers.serving.server import Listening, serve


def main() -> int:
    """Serves until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(description="Serves a trained model.")
    parser.add_argument("command", nargs="?", help="'serve', as SageMaker says it; ignored")
    parser.add_argument("--model", default=os.environ.get("SM_MODEL_DIR", "/opt/ml/model"))
    parser.add_argument("--version", default=os.environ.get("SF_SAGEMAKER_MODEL_VERSION", "0"))
    parser.add_argument("--host", default=os.environ.get("SF_SAGEMAKER_BIND", "127.0.0.1"))
    parser.add_argument(
        "--port", type=int, default=os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
    )
    parser.add_argument("--listen-fd", type=int, help="a listening socket to use instead")
    parser.add_argument("--supervisor-fd", type=int, help="a socket to the supervising process")
    given = parser.parse_args()
    return serve(
        Path(given.model),
        given.version,
        Listening(
            given.host, given.port, _inherited(given.listen_fd), _inherited(given.supervisor_fd)
        ),
    )


def _inherited(descriptor: int | None) -> socket.socket | None:
    return None if descriptor is None else socket.socket(fileno=descriptor)


if __name__ == "__main__":
    sys.exit(main())
