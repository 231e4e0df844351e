"""A stand-in for Amazon SageMaker training, and for the services around it, on this machine.

Real clients talk to it over HTTP. Training jobs, their tags, images, quotas and FilterLogEvents are
its own; S3, CloudWatch Logs, Secrets Manager, IAM, STS, EC2 and all else are moto's. Its jobs really
run, as processes of this machine with this Python.

What it leaves out: images are not pulled, so a request needs a ContainerEntrypoint; no Pipe mode;
no policy of IAM is enforced (faults deny calls instead); hosts share the machine's network. Told
from documents only, and never compared with a real account: what a message says beyond its code,
whether a failed job's output is uploaded, and how long each status lasts.
"""

from standins.sagemaker.service import SageMakerService
from standins.sagemaker.settings import Settings

__all__ = ["SageMakerService", "Settings"]
