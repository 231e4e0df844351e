"""SageMaker Models: a trained model with the code that answers for it, for endpoints and batch transform.

A Model's name follows from what is in it, so that asking for it again finds the one that is there. The
archive that it refers to is the training job's artifact with the code beside it, in storage under
`serving/<digest>/model.tar.gz`; SageMaker's own inference images run that code.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sf_sagemaker.aws import Aws, AwsError, translated
from sf_sagemaker.containers.model_card import read_card
from sf_sagemaker.containers.serving import ProgramKind, inference_files
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.endpoint import FetchArtifact, ServedModel
from sf_sagemaker.serving.errors import InvalidEndpoint
from sf_sagemaker.serving.sagemaker_errors import exists_already, not_found, on_refusal
from sf_sagemaker.storage import KeyExists, KeyMissing
from sf_sagemaker.training.archive import write_archive
from sf_sagemaker.training.job import Program
from sf_sagemaker.training.sagemaker_request import Network, project_tag

NAME_LIMIT = 63  # of a Model, an endpoint and its configuration: SageMaker API reference
VERSION_VARIABLE = "SF_SAGEMAKER_MODEL_VERSION"
# For one request, and for loading the model: the longest that batch transform waits, since a language
# model may need it.
SERVER_TIMEOUT_SECONDS = 3600
ARCHIVE_FOLDER = "serving"

_DIGEST_LENGTH = 12
# The newest inference image for language models; its libraries are of the release that trains them.
_TRANSFORMERS = "5.5.3"
_TORCH = "pytorch2.6.0"
_XGBOOST = "3.2-0"
_CODE = "code"
_QUALITY = "quality.json"


@dataclass(frozen=True)
class Container:
    """What a Model runs: an image, where the archive of its files lies in S3, and environment variables."""

    image: str
    model_data: str | None
    environment: Mapping[str, str] = field(default_factory=dict)

    def definition(self) -> dict[str, Any]:
        """The same as a ContainerDefinition of the API."""
        definition: dict[str, Any] = {"Image": self.image, "Environment": dict(self.environment)}
        if self.model_data is not None:
            definition["ModelDataUrl"] = self.model_data
        return definition


class SageMakerModels:
    """Makes Models that run under the execution role `role_arn`, in a network if one is given."""

    def __init__(
        self,
        aws: Aws,
        storage: S3Storage,
        role_arn: str,
        fetch_artifact: FetchArtifact,
        *,
        subnets: Sequence[str] = (),
        security_groups: Sequence[str] = (),
    ) -> None:
        self.aws = aws
        self.storage = storage
        self.role_arn = role_arn
        self._fetch_artifact = fetch_artifact
        self._network = Network.of(subnets, security_groups)

    @property
    def in_network(self) -> bool:
        """Whether Models run in a network of the account's own."""
        return self._network is not None

    def ensure_model(
        self, model: ServedModel, *, image: str | None = None, instance_type: str | None = None
    ) -> str:
        """The name of the Model that serves a trained model, which is there afterwards.

        `image` is an inference image in place of SageMaker's own, which may depend on `instance_type`
        (with GPUs or without). Raises what fetching the artifact does, InvalidEndpoint for what
        SageMaker refuses, and HostUnavailable.
        """
        return self.ensure_containers(
            model.model, [self.container(model, image=image, instance_type=instance_type)]
        )

    def ensure_containers(self, model: str, containers: Sequence[Container]) -> str:
        """The name of the Model of `model` that runs these containers, which is there afterwards.

        Several answer in turn, each the one before it. Raises InvalidEndpoint and HostUnavailable.
        """
        request = self.request(model, containers)
        name = request["ModelName"]
        try:
            with translated(f"create the SageMaker Model {name}"):
                self._client.create_model(**request)
        except AwsError as error:
            if not exists_already(error):
                raise on_refusal(error, self.role_arn) from error
        return name

    def container(
        self, model: ServedModel, *, image: str | None = None, instance_type: str | None = None
    ) -> Container:
        """What serves a trained model. Its archive is in storage afterwards."""
        return Container(
            image=image or inference_image(model.program, self.aws.region, instance_type),
            model_data=self.storage.uri(self._archive(model)),
            environment={
                "SAGEMAKER_PROGRAM": "inference.py",
                "SAGEMAKER_SUBMIT_DIRECTORY": f"/opt/ml/model/{_CODE}",
                "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
                "SAGEMAKER_REGION": self.aws.region,
                "SAGEMAKER_MODEL_SERVER_TIMEOUT": str(SERVER_TIMEOUT_SECONDS),
                # A client that names no type is answered in that of its request.
                "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "*/*",
                # Each worker has a copy of the model, and a language model is large.
                **({"SAGEMAKER_MODEL_SERVER_WORKERS": "1"} if model.program == "llm" else {}),
                VERSION_VARIABLE: model.label,
            },
        )

    def quality(self, model: ServedModel) -> str:
        """The address of the metrics in a trained model's card, which are there with its archive."""
        return self.storage.uri(f"{_folder(model)}/{_QUALITY}")

    def request(self, model: str, containers: Sequence[Container]) -> dict[str, Any]:
        """The CreateModel request, under the name that follows from it."""
        if not containers:
            raise InvalidEndpoint(f"a Model of {model} needs a container at least")
        definitions = [container.definition() for container in containers]
        what: dict[str, Any] = {
            **(
                {"PrimaryContainer": definitions[0]}
                if len(definitions) == 1
                else {"Containers": definitions}
            ),
            "ExecutionRoleArn": self.role_arn,
        }
        if self._network is not None:
            what["VpcConfig"] = {
                "Subnets": list(self._network.subnets),
                "SecurityGroupIds": list(self._network.security_groups),
            }
        tags = {**project_tag(self.storage.project), "sf_sagemaker:model": model}
        return {
            "ModelName": content_name(model, what),
            **what,
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }

    def delete(self, name: str) -> None:
        """Deletes a Model; one that is gone is not an error."""
        try:
            with translated(f"delete the SageMaker Model {name}"):
                self._client.delete_model(ModelName=name)
        except AwsError as error:
            if not not_found(error):
                raise on_refusal(error, self.role_arn) from error

    @property
    def _client(self) -> Any:
        return self.aws.client("sagemaker")

    def _archive(self, model: ServedModel) -> str:
        """The storage key of the archive: artifact and code, packed once for each pair of both."""
        folder = _folder(model)
        key = f"{folder}/model.tar.gz"
        try:
            self.storage.size(key)
        except KeyMissing:
            with tempfile.TemporaryDirectory() as scratch:
                artifact = self._fetch_artifact(model.training_job, Path(scratch))
                metrics = json.dumps({"metrics": read_card(artifact)["metrics"]}, indent=1)
                with suppress(KeyExists):
                    self.storage.create(f"{folder}/{_QUALITY}", metrics.encode())
                files = _files(artifact, model.program, Path(scratch))
                # Another run may pack the same at the same time.
                with suppress(KeyExists), self.storage.write(key) as file:
                    write_archive(files, file)
        return key


def inference_image(kind: ProgramKind, region: str, instance_type: str | None) -> str:
    """SageMaker's own image that serves a kind of model. Raises InvalidEndpoint."""
    from sagemaker.core import image_uris

    try:
        if kind == "xgboost":
            return image_uris.retrieve("xgboost", region=region, version=_XGBOOST)
        return image_uris.retrieve(
            "huggingface",
            region=region,
            version=_TRANSFORMERS,
            base_framework_version=_TORCH,
            instance_type=instance_type or "ml.m5.xlarge",
            image_scope="inference",
        )
    except (ValueError, KeyError) as error:
        raise InvalidEndpoint(
            f"SageMaker has no inference image for {kind} on {instance_type} in {region} ({error}): "
            "set endpoint.image to one of your own"
        ) from error


def content_name(model: str, content: Mapping[str, Any], what: str = "") -> str:
    """A name of a thing of a model that follows from what the thing is, of 63 characters at most."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    ending = f"{what}-{digest[:_DIGEST_LENGTH]}".strip("-")
    return f"{plain_name(model, NAME_LIMIT - 1 - len(ending))}-{ending}"


def plain_name(model: str, limit: int = NAME_LIMIT) -> str:
    """A model's name in letters, digits and single hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-")[:limit].strip("-") or "model"


def _folder(model: ServedModel) -> str:
    """The storage folder of what is packed of an artifact and the code as it is now."""
    program = Program(*inference_files(model.program))
    digest = hashlib.sha256(f"{model.artifact_uri}\0{program.digest}".encode()).hexdigest()
    return f"{ARCHIVE_FOLDER}/{digest[:32]}"


def _files(artifact: Path, kind: ProgramKind, scratch: Path) -> Mapping[str, Path]:
    """Everything in an archive by its path there: the artifact's files, and the code."""
    _, code = inference_files(kind)
    files = {
        path.relative_to(artifact).as_posix(): path
        for path in artifact.rglob("*")
        if path.is_file()
    }
    files |= {f"{_CODE}/{name}": path for name, path in code.items()}
    if kind == "llm":
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"peft=={read_card(artifact)['library_versions']['peft']}\n")
        files[f"{_CODE}/requirements.txt"] = requirements
    return files
