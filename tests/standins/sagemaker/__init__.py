"""A stand-in for Amazon SageMaker, and for the services around it, on this machine.

Real clients talk to it over HTTP. Jobs, Models, endpoints, model packages, tags, images, quotas and
FilterLogEvents are its own; S3, CloudWatch, Secrets Manager, IAM, STS, EC2 and all else are moto's. Its
jobs really run, and its endpoints really answer, as processes of this machine with this Python.

What it leaves out: images are not pulled, so a request needs a ContainerEntrypoint; no Pipe mode;
no policy of IAM is enforced (faults deny calls instead); hosts share the machine's network. Told
from documents only, and never compared with a real account: what a message says beyond its code,
whether a failed job's output is uploaded, and how long each status lasts. Alarms ring where a test sets
them, and not by metrics.
"""

from standins.sagemaker.service import SageMakerService
from standins.sagemaker.settings import Settings

__all__ = ["SageMakerService", "Settings"]
