"""The service as a process of its own: `python -m standins.sagemaker`, with tests/ on the path.

Prints one line of JSON, {"environment": {…}, "role_arn": …}, and serves until SIGTERM or SIGINT.
"""

import argparse
import json
import signal
from dataclasses import fields

from standins.sagemaker.service import SageMakerService
from standins.sagemaker.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--port", type=int, default=0)
    for field in fields(Settings):
        kind = int if field.name == "parallel_jobs" else float
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, dest=field.name, type=kind, default=field.default)
    options = vars(parser.parse_args())
    region, port = options.pop("region"), options.pop("port")
    # Blocked before the first thread starts, so that only sigwait hears of them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with SageMakerService(region, Settings(**options), port) as service:
        about = {"environment": service.environment, "role_arn": service.role_arn}
        print(json.dumps(about), flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
