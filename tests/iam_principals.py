"""Who was at work in an account of the stand-in: what they did, held against deploy/iam."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sf_sagemaker.aws_settings import AwsSettings, read_settings
from sf_sagemaker.commands.check_aws import placeholders, rendered
from standins.iam import Action, Policy, listed, refused, unused
from standins.sagemaker.service import SageMakerService


def deployment(
    service: SageMakerService, bucket: str, prefix: str, **variables: str
) -> AwsSettings:
    """The settings of a deployment in the account, with these variables beside the required ones."""
    required = ("ACCOUNT", "USER", "ROLE", "WAREHOUSE", "DATABASE", "SCHEMA")
    settings, _ = read_settings(
        {
            **service.environment,
            **{f"SNOWFLAKE_{name}": "A" for name in required},
            "SF_SAGEMAKER_STORAGE": f"s3://{bucket}/{prefix}",
            "SF_SAGEMAKER_ROLE_ARN": service.role_arn,
            **variables,
        }
    )
    return settings


@dataclass(frozen=True)
class Principal:
    """A caller, or the role of jobs, with what it needed to be allowed, and its policies by name.

    `own` are those that a test is about; `general` those that it has for training anyway.
    """

    actions: Sequence[Action]
    own: Mapping[str, Policy]
    general: Mapping[str, Policy]

    @property
    def policies(self) -> list[Policy]:
        return [*self.general.values(), *self.own.values()]

    def assert_allowed(self, *expected: str) -> None:
        """All that it did was allowed, but not without its own policies; the expected is among it."""
        missing = set(expected) - {action.name for action in self.actions}
        assert not missing, f"was never done: {missing}"
        denied = refused(self.policies, self.actions)
        assert not denied, denied
        assert refused(list(self.general.values()), self.actions), "its own policies add nothing"

    def assert_no_more_than_needed(self) -> None:
        """Each action of its own policies was done, and what was done to a resource names one."""
        to_resources = {action.name for action in self.actions if action.resource != "*"}
        for name, policy in self.own.items():
            idle = unused(policy, self.actions)
            assert not idle, (name, idle)
            for statement in policy["Statement"]:
                if "*" in listed(statement["Resource"]):
                    too_wide = to_resources & set(listed(statement["Action"]))
                    assert not too_wide, (name, too_wide)

    def assert_refused(self, *asked: Action) -> None:
        allowed = [action for action in asked if not refused(self.policies, [action])]
        assert not allowed, allowed


def principal(
    settings: AwsSettings,
    actions: Sequence[Action],
    *own: str,
    general: Sequence[str] = (),
) -> Principal:
    """One with these policies of deploy/iam."""
    values = placeholders(settings)
    return Principal(
        actions,
        own={name: rendered(name, values) for name in own},
        general={name: rendered(name, values) for name in general},
    )
