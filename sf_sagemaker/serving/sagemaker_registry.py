"""The Model Registry: a group for each model, and in it a package for each training job that is deployed.

A package is found by its description, which names the training job: a listing of a group's newest says
what there is, in one call.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from sf_sagemaker.aws import Aws, AwsError, translated
from sf_sagemaker.serving.endpoint import Approval, ServedModel
from sf_sagemaker.serving.errors import ApprovalPending, ModelRejected
from sf_sagemaker.serving.hosting import Hosting, Instances
from sf_sagemaker.serving.sagemaker_errors import exists_already, not_found, on_refusal
from sf_sagemaker.serving.sagemaker_model import Container, plain_name
from sf_sagemaker.serving.sagemaker_request import tags

_PAGE = 100
_PAGES = 10
_TOKENS = uuid.UUID("6d1c7f0e-7f0b-4e1c-9a55-5f5a1c5d7a10")  # the namespace of our client tokens
_STATUS = {
    "Approved": Approval.APPROVED,
    "Rejected": Approval.REJECTED,
    "PendingManualApproval": Approval.PENDING,
}


@dataclass(frozen=True)
class ModelPackage:
    """A package by its ARN, and what was said about it; `remark` is the person's own."""

    arn: str
    approval: Approval
    remark: str = ""


class ModelRegistry:
    """Packages of one deployment's models."""

    def __init__(self, aws: Aws, project: str, role_arn: str) -> None:
        self._aws = aws
        self._project = project
        self._role_arn = role_arn

    def register(
        self, model: ServedModel, container: Container, quality: str, hosting: Hosting
    ) -> ModelPackage:
        """The package of a model, which is there afterwards; `quality` is the address of its metrics.

        With automatic approval it is made as an approved one. What a person was asked about stays a
        person's to answer, whatever is configured since.
        """
        found = self.find(model)
        if found is None:
            self._ensure_group(model.model)
            found = self._create(model, container, quality, hosting)
        return found

    def find(self, model: ServedModel) -> ModelPackage | None:
        """The package of a model; None where there is none among the group's newest thousand."""
        group = plain_name(model.model)
        page: dict[str, Any] = {}
        for _ in range(_PAGES):
            try:
                page = self._call(
                    "look for", "list_model_packages", ModelPackageGroupName=group,
                    SortBy="CreationTime", SortOrder="Descending", MaxResults=_PAGE,
                    **({"NextToken": page["NextToken"]} if page.get("NextToken") else {}),
                )  # fmt: skip
            except AwsError as error:
                if not_found(error):
                    return None
                raise on_refusal(error, self._role_arn) from error
            for summary in page["ModelPackageSummaryList"]:
                if summary.get("ModelPackageDescription") == _description(model):
                    return self._describe(summary["ModelPackageArn"])
            if not page.get("NextToken"):
                return None
        return None

    def _describe(self, arn: str) -> ModelPackage:
        answer = self._call("describe", "describe_model_package", ModelPackageName=arn)
        status = answer.get("ModelApprovalStatus", "PendingManualApproval")
        return ModelPackage(arn, _STATUS[status], answer.get("ApprovalDescription", ""))

    def _ensure_group(self, model: str) -> None:
        try:
            self._call(
                "create the group of", "create_model_package_group",
                ModelPackageGroupName=plain_name(model),
                ModelPackageGroupDescription=f"Models of {model} that were deployed.",
                Tags=tags(model, self._project),
            )  # fmt: skip
        except AwsError as error:
            if not exists_already(error):
                raise on_refusal(error, self._role_arn) from error

    def _create(
        self, model: ServedModel, container: Container, quality: str, hosting: Hosting
    ) -> ModelPackage:
        approved = hosting.approval == "automatic"
        machines = hosting.machines
        content_types = ["application/json"] + (["text/csv"] if model.program == "xgboost" else [])
        specification: dict[str, Any] = {
            "Containers": [container.definition()],
            "SupportedContentTypes": content_types,
            "SupportedResponseMIMETypes": content_types,
        }
        if isinstance(machines, Instances):
            specification["SupportedRealtimeInferenceInstanceTypes"] = [machines.instance_type]
        token = json.dumps([self._project, model.model, model.training_job])
        try:
            answer = self._call(
                "register", "create_model_package",
                ModelPackageGroupName=plain_name(model.model),
                ModelPackageDescription=_description(model),
                InferenceSpecification=specification,
                ModelMetrics={
                    "ModelQuality": {
                        "Statistics": {"ContentType": "application/json", "S3Uri": quality}
                    }
                },
                CustomerMetadataProperties={
                    "training_job": model.training_job,
                    "version": str(model.version),
                },
                ModelApprovalStatus="Approved" if approved else "PendingManualApproval",
                ClientToken=str(uuid.uuid5(_TOKENS, token)),  # an answer may get lost
            )  # fmt: skip
        except AwsError as error:
            raise on_refusal(error, self._role_arn) from error
        return ModelPackage(
            answer["ModelPackageArn"], Approval.APPROVED if approved else Approval.PENDING
        )

    def _call(self, doing: str, operation: str, **parameters: Any) -> Any:
        with translated(f"{doing} a package of the Model Registry"):
            return getattr(self._aws.client("sagemaker"), operation)(**parameters)


def check_approved(package: ModelPackage, model: ServedModel) -> None:
    """Raises ApprovalPending and ModelRejected."""
    if package.approval is Approval.PENDING:
        raise ApprovalPending(
            f"{model.label} of {model.model} waits for a person to approve {package.arn}: in SageMaker "
            "Studio under Models, or with `aws sagemaker update-model-package --model-package-arn "
            f"{package.arn} --model-approval-status Approved`. It is deployed once that is done"
        )
    if package.approval is Approval.REJECTED:
        raise ModelRejected(
            f"{model.label} of {model.model} was rejected in the Model Registry"
            + (f" ({package.remark})" if package.remark else "")
            + f", as {package.arn}: approve it there, or make another model champion"
        )


def _description(model: ServedModel) -> str:
    return f"Training job {model.training_job}"
