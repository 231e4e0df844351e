"""Container images: SageMaker's own for a framework, or any in ECR, by digest where that is known."""

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from threading import Lock
from typing import Any

from sf_sagemaker.aws import AccessDenied, Aws, AwsError, AwsUnavailable, translated
from sf_sagemaker.training.platform import PlatformUnavailable
from sf_sagemaker.training.sagemaker_errors import ImageNotUsable

# The newest images. That of Hugging Face has peft 0.18, whose adapters newer ones read.
_XGBOOST = "3.2-0"
_TRANSFORMERS = "5.3.0"
_TORCH = "pytorch2.9.0"
_URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.[a-z.]+/"
    r"(?P<repository>[a-z0-9._/-]+)(?::(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{64}))"
)
_MEDIA_TYPES = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
]
# Instance families with Graviton processors: a "g" after the generation, as in m7g and c6gn.
_ARM = re.compile(r"ml\.[a-z]+\d+g[a-z]*\.|ml\.t4g\.|ml\.p6e-gb\d+\.")
# Instance families with GPUs of Nvidia, which the image for language models is built for.
_GPUS = re.compile(r"ml\.(g|p)\d")
_DOWNLOAD_SECONDS = 10


def architecture(instance_type: str) -> str:
    """The processor architecture of an instance type, as container images name it."""
    return "arm64" if _ARM.match(instance_type) else "amd64"


def has_gpus(instance_type: str) -> bool:
    """Whether instances of a type have GPUs."""
    return _GPUS.match(instance_type) is not None


def framework_image(framework: str, region: str, instance_type: str | None) -> str:
    """SageMaker's image for a framework, by its tag. Raises ImageNotUsable."""
    from sagemaker.core import image_uris

    if framework == "llm" and not has_gpus(instance_type or ""):
        raise ImageNotUsable(
            f"compute.instance_type is {instance_type}, which has no GPU, and SageMaker's image for "
            "language models needs one: choose an instance of the families g or p, such as "
            "ml.g5.xlarge, or name an image of your own as compute.image"
        )
    try:
        if framework == "xgboost":
            return image_uris.retrieve("xgboost", region=region, version=_XGBOOST)
        return image_uris.retrieve(
            "huggingface",
            region=region,
            version=_TRANSFORMERS,
            base_framework_version=_TORCH,
            instance_type=instance_type,
            image_scope="training",
        )
    except (ValueError, KeyError) as error:
        raise ImageNotUsable(
            f"SageMaker has no image for {framework} on {instance_type} in {region} ({error}): set "
            "compute.image"
        ) from error


@dataclass(frozen=True)
class _Image:
    account: str
    region: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def id(self) -> dict[str, str]:
        if self.digest is not None:
            return {"imageDigest": self.digest}
        return {"imageTag": self.tag or "latest"}


class Images:
    """Looks images up in ECR, each once: a job's name rests on what is found first."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._lock = Lock()
        self._pinned: dict[str, str] = {}
        self._manifests: dict[str, dict[str, Any] | None] = {}

    def framework(self, framework: str, instance_type: str | None) -> str:
        """SageMaker's image, by digest where the caller may look it up."""
        uri = framework_image(framework, self._aws.region, instance_type)
        return self._pin(uri, required=False)

    def custom(self, uri: str) -> str:
        """An image in ECR, by digest. Raises ImageNotUsable."""
        return self._pin(uri, required=True)

    def check(self, uri: str, instance_type: str) -> None:
        """Raises ImageNotUsable for an image that instances of the type can't run."""
        image = _parse(uri)
        with self._lock:
            manifest = self._manifest(image, uri)
            found = None if manifest is None else self._architectures(image, manifest)
        wanted = architecture(instance_type)
        if found and wanted not in found:
            raise ImageNotUsable(
                f"{uri} is built for {', '.join(sorted(found))}, and {instance_type} has {wanted} "
                "processors: build it for both, or choose another compute.instance_type"
            )

    def _pin(self, uri: str, *, required: bool) -> str:
        with self._lock:
            if uri not in self._pinned:
                self._pinned[uri] = self._looked_up(uri, required=required)
            return self._pinned[uri]

    def _looked_up(self, uri: str, *, required: bool) -> str:
        image = _parse(uri)
        if image.region != self._aws.region:
            raise ImageNotUsable(
                f"{uri} lies in {image.region}: training jobs in {self._aws.region} take images "
                "from there only"
            )
        if image.digest is not None:
            return uri
        try:
            answer = self._ask(image)
        except AwsError as error:
            denied = isinstance(error, AccessDenied) or error.code == "RepositoryNotFoundException"
            if denied and not required:
                self._manifests[uri] = None
                return uri
            raise _refused(uri, error) from error
        if not answer["images"]:
            raise ImageNotUsable(f"there is no image {uri}: push it, or correct compute.image")
        found = answer["images"][0]
        repository = uri.removesuffix(f":{image.tag}")
        pinned = f"{repository}@{found['imageId']['imageDigest']}"
        self._manifests[pinned] = json.loads(found["imageManifest"])
        return pinned

    def _manifest(self, image: _Image, uri: str) -> dict[str, Any] | None:
        if uri not in self._manifests:
            try:
                images = self._ask(image)["images"]
            except AwsUnavailable as error:
                raise PlatformUnavailable(str(error)) from error
            except AwsError:
                images = []  # what the caller may not see, SageMaker may run all the same
            self._manifests[uri] = json.loads(images[0]["imageManifest"]) if images else None
        return self._manifests[uri]

    def _architectures(self, image: _Image, manifest: dict[str, Any]) -> set[str]:
        """What the image is built for; empty where that can't be seen."""
        if "manifests" in manifest:
            platforms = (one.get("platform", {}) for one in manifest["manifests"])
            found = {str(platform.get("architecture")) for platform in platforms}
            return found - {"unknown", "None"}  # attestations have none
        config = manifest.get("config", {}).get("digest")
        if config is None:
            return set()
        try:
            with translated("look up an image's configuration"):
                url = self._aws.client("ecr").get_download_url_for_layer(
                    registryId=image.account,
                    repositoryName=image.repository,
                    layerDigest=config,
                )["downloadUrl"]
            with urllib.request.urlopen(url, timeout=_DOWNLOAD_SECONDS) as content:
                built_for = json.loads(content.read()).get("architecture")
        except (AwsError, urllib.error.URLError, TimeoutError, ValueError):
            return set()
        return {str(built_for)} if built_for else set()

    def _ask(self, image: _Image) -> dict[str, Any]:
        with translated(f"look up the image {image.repository} in ECR"):
            return self._aws.client("ecr").batch_get_image(
                registryId=image.account,
                repositoryName=image.repository,
                imageIds=[image.id],
                acceptedMediaTypes=_MEDIA_TYPES,
            )


def _parse(uri: str) -> _Image:
    match = _URI.fullmatch(uri)
    if match is None:
        raise ImageNotUsable(
            f"{uri!r} is not an image in ECR: write "
            "<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag> or …@sha256:<digest>"
        )
    return _Image(**match.groupdict())


def _refused(uri: str, error: AwsError) -> Exception:
    if isinstance(error, AwsUnavailable):
        return PlatformUnavailable(str(error))
    if error.code == "RepositoryNotFoundException":
        return ImageNotUsable(
            f"there is no repository for {uri}: create it, or correct compute.image"
        )
    return error
