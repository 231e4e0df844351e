"""`make stop`: ends the endpoints of this machine, which outlive whatever deployed them."""

import sys

from sf_sagemaker import deployment
from sf_sagemaker.serving.local import LocalEndpointHost


def main() -> int:
    """Ends them once they have answered what they were asked. Returns 0; 1 where they aren't here."""
    host = deployment.resources()["endpoint_host"]
    if not isinstance(host, LocalEndpointHost):
        print(
            f"SF_SAGEMAKER_DEPLOYMENT is {deployment.name()}, and this ends the endpoints of this "
            "machine: set it to local. An endpoint on SageMaker ends with endpoint_host.stop(name), "
            'as the section "On SageMaker" of docs/serve-a-model.md says',
            file=sys.stderr,
        )
        return 1
    for name in host.names():
        host.stop(name)
        print(f"{name} has ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
