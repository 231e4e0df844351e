"""deploy/iam for Claude on Bedrock: its policies allow every call that is made, and nothing that isn't."""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from iam_principals import Principal, deployment, principal
from sf_sagemaker.aws import Aws
from sf_sagemaker.aws_settings import AwsSettings
from sf_sagemaker.commands.check_aws import POLICIES, placeholders, rendered
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.bedrock import Bedrock, Conversation
from sf_sagemaker.serving.bedrock_answers import Answers, answers_folder
from sf_sagemaker.serving.bedrock_batch import BatchJobs
from sf_sagemaker.serving.bedrock_budget import Budget
from sf_sagemaker.serving.bedrock_questions import Ask, AskingInterrupted, ask_all
from standins.iam import Action, needed, on_request, on_resource, passing
from standins.sagemaker.calls import Call, Calls
from standins.sagemaker.fixtures import reachable_service
from standins.sagemaker.service import SageMakerService

BUCKET, PREFIX = "training-data", "teams/analytics"
TRUST = "bedrock-batch-role-trust"
PROFILE = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
OWN_PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
MODEL = "anthropic.claude-3-haiku-20240307-v1:0"
PROMPTS = [f"prompt {number}" for number in range(140)]


@dataclass(frozen=True)
class Account:
    service: SageMakerService
    settings: AwsSettings
    caller: Principal
    role: Principal


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with reachable_service() as service:
        service.create_bucket(BUCKET)
        role = service.create_role("bedrock-batches", "bedrock.amazonaws.com")
        settings = deployment(service, BUCKET, PREFIX, SF_SAGEMAKER_BEDROCK_ROLE_ARN=role)
        assert placeholders(settings)["BEDROCK_ROLE_ARN"] == role
        service.calls.clear()
        _use(service, role)
        did = [action for call in service.calls for action in actions_of(call, service)]
        yield Account(
            service,
            settings,
            caller=principal(
                settings,
                did,
                "caller-bedrock-policy",
                "caller-bedrock-batch-policy",
                general=["caller-policy"],
            ),
            role=principal(settings, of_role(service.calls), "bedrock-batch-role-policy"),
        )


def _use(service: SageMakerService, role: str) -> None:
    """Answers one by one and as a batch, and a batch that is stopped."""
    aws = Aws(attempts=2)
    storage = S3Storage(aws, BUCKET, PREFIX)
    bedrock = Bedrock(aws, BatchJobs(aws, storage, role, poll=0.05, longest_poll=0.1))

    def ask(model_id: str, prompts: Sequence[str]) -> Ask:
        conversation = Conversation(model_id, "Answer yes.")
        folder = answers_folder("m", "2015-04-27", conversation)
        return Ask(Answers(storage, folder, conversation), prompts)

    budget = Budget(tokens=10**8)
    for model_id in (MODEL, OWN_PROFILE):
        ask_all(bedrock, [ask(model_id, PROMPTS[:3])], budget)
    ask_all(bedrock, [ask(PROFILE, PROMPTS), ask(MODEL, PROMPTS)], budget, batch_from=120)
    interrupted = threading.Event()
    service.bedrock.hold.set()
    with pytest.raises(AskingInterrupted):
        ask_all(
            bedrock,
            [ask(OWN_PROFILE, PROMPTS)],
            budget,
            batch_from=120,
            interrupted=interrupted,
            should_stop=lambda name: True,
            on_progress=lambda line: interrupted.set() if line.endswith("InProgress") else None,
        )


def models_behind(model_id: str, region: str) -> Iterator[str]:
    """The ARNs that a right to a model id is asked for: a profile, and the models that it leads to."""
    if model_id.startswith("arn:"):
        yield model_id
        yield f"arn:aws:bedrock:eu-west-1::foundation-model/{MODEL}"
    elif model_id.startswith("eu."):
        yield f"arn:aws:bedrock:{region}:123456789012:inference-profile/{model_id}"
        yield f"arn:aws:bedrock:eu-west-1::foundation-model/{model_id.removeprefix('eu.')}"
    else:
        yield f"arn:aws:bedrock:{region}::foundation-model/{model_id}"


def actions_of(call: Call, service: SageMakerService) -> Iterator[Action]:
    """What a call needs to be allowed: the service authorization reference of Amazon Bedrock."""
    p, region = call.parameters, call.request.region
    jobs = f"arn:aws:bedrock:{region}:123456789012:model-invocation-job"
    match call.operation:
        case "Converse":
            for arn in models_behind(p["modelId"], region):
                yield Action("bedrock:InvokeModel", arn)
        case "CreateModelInvocationJob":
            context = on_request({"Key": tag["key"], "Value": tag["value"]} for tag in p["tags"])
            yield Action("bedrock:CreateModelInvocationJob", f"{jobs}/*", context)
            yield Action("bedrock:TagResource", f"{jobs}/*", context)
            for arn in models_behind(p["modelId"], region):
                yield Action("bedrock:CreateModelInvocationJob", arn, context)
            yield passing(p["roleArn"], "bedrock.amazonaws.com")
        case "GetModelInvocationJob":
            yield Action("bedrock:GetModelInvocationJob", p["jobIdentifier"])
        case "StopModelInvocationJob":
            (job,) = [one for one in service.bedrock.batches() if one.arn == p["jobIdentifier"]]
            yield Action("bedrock:StopModelInvocationJob", job.arn, on_resource(job.tags))
        case "ListModelInvocationJobs":
            yield Action("bedrock:ListModelInvocationJobs", "*")
        case _:
            yield from needed(call, {})


def of_role(calls: Calls) -> list[Action]:
    """With what Bedrock does by the role beside what the stand-in does: "Create a service role"."""
    return [
        *(action for call in calls.of_jobs for action in needed(call, {})),
        Action("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": f"{PREFIX}/baselines/m/"}),
        *(
            Action("bedrock:InvokeModel", arn)
            for call in calls.of("CreateModelInvocationJob")
            for arn in models_behind(call.parameters["modelId"], call.request.region)
        ),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    account.caller.assert_allowed(
        "bedrock:InvokeModel", "bedrock:CreateModelInvocationJob", "bedrock:StopModelInvocationJob",
        "bedrock:ListModelInvocationJobs", "iam:PassRole", "s3:PutObject", "s3:GetObject",
    )  # fmt: skip


def test_every_call_for_a_batch_is_allowed_to_its_role(account: Account) -> None:
    account.role.assert_allowed("s3:GetObject", "s3:PutObject")


def test_no_policy_allows_more_than_is_needed(account: Account) -> None:
    account.caller.assert_no_more_than_needed()
    account.role.assert_no_more_than_needed()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    job = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abcdefabcdef"
    other = on_resource({"sf_sagemaker:project": f"s3://{BUCKET}/teams/other"})
    role = f"arn:aws:iam::{account.service.account}:role/bedrock-batches"
    account.caller.assert_refused(
        Action(
            "bedrock:InvokeModel", "arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-v1:0"
        ),
        Action("bedrock:StopModelInvocationJob", job),
        Action("bedrock:StopModelInvocationJob", job, other),
        Action("bedrock:CreateModelInvocationJob", job),
        Action("bedrock:CreateModelCustomizationJob", job),
        passing(f"{role}-admin", "bedrock.amazonaws.com"),
        passing(role, "sagemaker.amazonaws.com"),
    )
    stored = f"arn:aws:s3:::{BUCKET}/{PREFIX}"
    account.role.assert_refused(
        Action("s3:GetObject", f"{stored}/datasets/m/manifest.json"),
        Action("s3:PutObject", f"{stored}/baselines/m/2015-04-27/d/000001.jsonl"),
        Action("s3:PutObject", f"{stored}/champions/m/000001.json"),
        Action("s3:DeleteObject", f"{stored}/baselines/m/x/output/y"),
        Action("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "teams/other/"}),
    )


def test_only_batches_of_this_account_use_the_role(account: Account) -> None:
    content: dict[str, Any] = json.loads((POLICIES / f"{TRUST}.json").read_text())
    (statement,) = content["Statement"]
    assert statement["Principal"] == {"Service": "bedrock.amazonaws.com"}
    trust = rendered(TRUST, placeholders(account.settings))
    assert trust["Statement"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": "123456789012"},
        "ArnLike": {
            "aws:SourceArn": "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/*"
        },
    }
