"""Container images in ECR, in any account's registry: what they are built for, and no more.

moto knows neither other accounts' images, as SageMaker's own are, nor an image's configuration.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from standins.sagemaker.requests import ApiError, Operations, Request

LAYERS = "/layers-of-images/"

_URI = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+):(.+)")
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class _Image:
    tag: str
    digest: str
    manifest: str


class Images:
    """Registries by account, region and repository. Repositories that tests make by ECR's own
    operations are moto's."""

    def __init__(self, endpoint_url: str, account: str) -> None:
        self._endpoint_url = endpoint_url
        self._account = account
        self._images: dict[tuple[str, str, str], list[_Image]] = {}
        self._layers: dict[str, bytes] = {}

    def add(self, uri: str, architectures: Sequence[str] = ("amd64",)) -> str:
        """Puts an image where its address (with a tag) says; gives its digest.

        Built for several architectures, it is an index of images.
        """
        match = _URI.fullmatch(uri)
        assert match is not None, f"{uri} is no address of an image in ECR with a tag"
        account, region, repository, tag = match.groups()
        manifests = [self._manifest(uri, architecture) for architecture in architectures]
        if len(manifests) == 1:
            manifest = json.dumps(manifests[0])
        else:
            manifest = json.dumps(_index(manifests, architectures))
        image = _Image(tag, _digest(manifest.encode()), manifest)
        self._images.setdefault((account, region, repository), []).append(image)
        return image.digest

    def operations(self) -> Operations:
        return {
            ("ecr", "BatchGetImage"): self._batch_get_image,
            ("ecr", "GetDownloadUrlForLayer"): self._get_download_url,
        }

    def is_ours(self, request: Request) -> bool:
        """Whether the repository was added here, or is another account's."""
        repository = self._repository(request)
        return repository in self._images or repository[0] != self._account

    def layer(self, path: str) -> bytes | None:
        """What is behind a download's URL."""
        return self._layers.get(path.removeprefix(LAYERS))

    def _manifest(self, uri: str, architecture: str) -> dict[str, Any]:
        config = json.dumps({"architecture": architecture, "os": "linux", "comment": uri}).encode()
        digest = _digest(config)
        self._layers[digest] = config
        return {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": digest,
            },
            "layers": [],
        }

    def _repository(self, request: Request) -> tuple[str, str, str]:
        wanted = request.parameters
        account = wanted.get("registryId") or self._account
        return account, request.region, wanted["repositoryName"]

    def _find(self, request: Request) -> list[_Image]:
        account, _, name = repository = self._repository(request)
        if repository not in self._images:
            raise ApiError(
                "RepositoryNotFoundException",
                f"The repository with name '{name}' does not exist in the registry with id "
                f"'{account}'",
            )
        return self._images[repository]

    def _batch_get_image(self, request: Request) -> Mapping[str, Any]:
        account, _, name = self._repository(request)
        images = self._find(request)
        found, failures = [], []
        for wanted in request.parameters["imageIds"]:
            for image in reversed(images):
                if wanted in ({"imageTag": image.tag}, {"imageDigest": image.digest}):
                    found.append(
                        {
                            "registryId": account,
                            "repositoryName": name,
                            "imageId": {"imageDigest": image.digest, **wanted},
                            "imageManifest": image.manifest,
                            "imageManifestMediaType": json.loads(image.manifest)["mediaType"],
                        }
                    )
                    break
            else:
                failures.append(
                    {
                        "imageId": wanted,
                        "failureCode": "ImageNotFound",
                        "failureReason": "Requested image not found",
                    }
                )
        return {"images": found, "failures": failures}

    def _get_download_url(self, request: Request) -> Mapping[str, Any]:
        self._find(request)
        digest = request.parameters["layerDigest"]
        if digest not in self._layers:
            raise ApiError("LayersNotFoundException", f"there is no layer {digest}")
        return {
            "downloadUrl": f"{self._endpoint_url}{LAYERS}{digest}",
            "layerDigest": digest,
        }


def _index(manifests: Sequence[Mapping[str, Any]], architectures: Sequence[str]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [
            {
                "mediaType": _MANIFEST,
                "digest": _digest(json.dumps(manifest).encode()),
                "size": len(json.dumps(manifest)),
                "platform": {"architecture": architecture, "os": "linux"},
            }
            for manifest, architecture in zip(manifests, architectures, strict=True)
        ],
    }


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
