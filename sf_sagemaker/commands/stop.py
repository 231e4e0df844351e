"""`make stop`: ends the endpoints of this machine, which outlive whatever deployed them."""

import sys
from typing import cast

from sf_sagemaker import deployment
from sf_sagemaker.serving.local import LocalEndpointHost


def main() -> int:
    """Ends them once they have answered what they were asked. Returns 0."""
    host = cast(LocalEndpointHost, deployment.resources()["endpoint_host"])
    for name in host.names():
        host.stop(name)
        print(f"{name} has ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
