"""What the deployment `aws` is told by the environment: names and addresses, and no secret.

All problems of all variables are reported at once.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sf_sagemaker.errors import SfSagemakerError

_NEVER_SHOWN = ("SF_SAGEMAKER_SNOWFLAKE_SECRET",)  # somebody may paste the secret itself


class InvalidDeployment(SfSagemakerError):
    """A deployment's environment variables that are missing or wrong."""


def _fits(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def _account(value: str) -> str:
    if "snowflakecomputing" in value or "/" in value:
        raise ValueError(
            "expected the account identifier alone, such as MYORG-MYACCOUNT; the host of a private "
            "link goes into SNOWFLAKE_HOST"
        )
    return value


def _listed(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


_Identifier = Annotated[
    str,
    _fits(
        r"[A-Za-z_][A-Za-z0-9_$]{0,254}",
        "a Snowflake identifier without quotes: letters, digits, _ and $, not starting with a digit",
    ),
]
_Subnet = Annotated[
    str, _fits(r"subnet-[0-9a-f]{8,17}", "ids such as subnet-0a1b2c3d, with commas")
]
_SecurityGroup = Annotated[
    str, _fits(r"sg-[0-9a-f]{8,17}", "ids such as sg-0a1b2c3d, with commas between them")
]


_Role = Annotated[
    str, _fits(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", "arn:aws:iam::ACCOUNT:role/NAME")
]


class _Variables(BaseModel):
    """Fields read from the environment; the alias is the variable's name."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class SnowflakeSettings(_Variables):
    """Where in Snowflake the project works, and as whom. How it logs in is a secret, read elsewhere."""

    account: Annotated[str, AfterValidator(_account)] = Field(
        alias="SNOWFLAKE_ACCOUNT", description="the account identifier, such as MYORG-MYACCOUNT"
    )
    user: str = Field(alias="SNOWFLAKE_USER", description="the user that logs in")
    role: _Identifier = Field(alias="SNOWFLAKE_ROLE", description="the role that it works with")
    warehouse: _Identifier = Field(
        alias="SNOWFLAKE_WAREHOUSE", description="the virtual warehouse that computes"
    )
    database: _Identifier = Field(
        alias="SNOWFLAKE_DATABASE", description="the database of raw tables and dbt models"
    )
    schema_name: _Identifier = Field(
        alias="SNOWFLAKE_SCHEMA", description="the schema of dbt models that name none"
    )
    host: Annotated[str, _fits(r"[A-Za-z0-9.-]+", "a host name")] | None = Field(
        default=None, alias="SNOWFLAKE_HOST", description="the host of a private link"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, alias="SNOWFLAKE_PORT", description="its port"
    )
    protocol: Literal["https", "http"] | None = Field(
        default=None, alias="SNOWFLAKE_PROTOCOL", description="https, or http for a stand-in"
    )


class AwsSettings(_Variables):
    """The deployment `aws`: bucket, region, execution role, defaults of the compute options."""

    storage: Annotated[
        str,
        BeforeValidator(lambda value: value.rstrip("/") if isinstance(value, str) else value),
        _fits(
            r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)+",
            "s3://bucket/prefix, with letters, digits, _ . = - in the prefix",
        ),
    ] = Field(
        alias="SF_SAGEMAKER_STORAGE",
        description="where datasets and models lie, s3://bucket/prefix",
    )
    region: Annotated[str, _fits(r"[a-z]{2}(-[a-z]+)+-\d", "a region such as eu-central-1")] = (
        Field(
            alias="AWS_REGION",
            description="the region of bucket and training jobs (or AWS_DEFAULT_REGION)",
        )
    )
    role_arn: _Role = Field(
        alias="SF_SAGEMAKER_ROLE_ARN", description="the execution role of training jobs"
    )
    storage_integration: _Identifier | None = Field(
        default=None,
        alias="SF_SAGEMAKER_STORAGE_INTEGRATION",
        description="Snowflake's integration for the bucket",
    )
    subnets: Annotated[tuple[_Subnet, ...], BeforeValidator(_listed)] = Field(
        default=(), alias="SF_SAGEMAKER_SUBNETS", description="subnets of training jobs"
    )
    security_groups: Annotated[tuple[_SecurityGroup, ...], BeforeValidator(_listed)] = Field(
        default=(),
        alias="SF_SAGEMAKER_SECURITY_GROUPS",
        description="security groups of training jobs",
    )
    kms_key: (
        Annotated[
            str,
            _fits(
                r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+",
                "arn:aws:kms:REGION:ACCOUNT:key/ID",
            ),
        ]
        | None
    ) = Field(
        default=None,
        alias="SF_SAGEMAKER_KMS_KEY",
        description="the KMS key of artifacts and volumes",
    )
    bedrock_role_arn: _Role | None = Field(
        default=None,
        alias="SF_SAGEMAKER_BEDROCK_ROLE_ARN",
        description="the role of batch inference jobs",
    )
    snowflake_secret: (
        Annotated[str, _fits(r"[\w/+=.@:-]{1,512}", "the name or ARN of a secret, not a secret")]
        | None
    ) = Field(
        default=None,
        alias="SF_SAGEMAKER_SNOWFLAKE_SECRET",
        description="the Secrets Manager secret with Snowflake's credentials",
    )

    @property
    def bucket(self) -> str:
        return self.storage.removeprefix("s3://").split("/", 1)[0]

    @property
    def prefix(self) -> str:
        """The prefix in the bucket, without slashes around it."""
        return self.storage.removeprefix("s3://").split("/", 1)[1]


def read_settings(environment: Mapping[str, str]) -> tuple[AwsSettings, SnowflakeSettings]:
    """The settings in an environment; a variable that is empty counts as not set.

    Raises InvalidDeployment, which lists everything that is missing or wrong.
    """
    values = {name: value.strip() for name, value in environment.items() if value.strip()}
    if "AWS_DEFAULT_REGION" in values:
        values.setdefault("AWS_REGION", values["AWS_DEFAULT_REGION"])
    aws, aws_problems = _validated(AwsSettings, values)
    snowflake, snowflake_problems = _validated(SnowflakeSettings, values)
    problems = [*aws_problems, *_contradictions(values), *snowflake_problems]
    if aws is None or snowflake is None or problems:
        raise InvalidDeployment(
            "SF_SAGEMAKER_DEPLOYMENT is aws, and its environment is not complete:\n"
            + "\n".join(f"- {problem}" for problem in problems)
            + "\ndocs/production.md has the table of all variables"
        )
    return aws, snowflake


_Model = TypeVar("_Model", bound=_Variables)


def _validated(
    model: type[_Model], values: Mapping[str, str]
) -> tuple[_Model | None, tuple[str, ...]]:
    """The model, or None and what is wrong with each of its variables."""
    try:
        return model.model_validate(values), ()
    except ValidationError as invalid:
        about = {field.alias: field.description for field in model.model_fields.values()}
        problems: dict[str, str] = {}  # one for each variable, of a list with several wrong parts
        for error in invalid.errors(include_url=False):
            name = str(error["loc"][0])
            if error["type"] == "missing":
                problems[name] = f"{name} is not set: {about[name]}"
            else:
                found = "wrong" if name in _NEVER_SHOWN else repr(values[name])
                message = error["msg"].removeprefix("Value error, ")
                problems[name] = f"{name} is {found}: {message}"
        return None, tuple(problems.values())


def _contradictions(values: Mapping[str, str]) -> Iterator[str]:
    """What is wrong between variables, each of which may be right."""
    if ("SF_SAGEMAKER_SUBNETS" in values) != ("SF_SAGEMAKER_SECURITY_GROUPS" in values):
        yield "SF_SAGEMAKER_SUBNETS and SF_SAGEMAKER_SECURITY_GROUPS: a job in a VPC needs both"
    region = values.get("AWS_REGION")
    key_region = values.get("SF_SAGEMAKER_KMS_KEY", "").split(":")[3:4]
    if region is not None and key_region not in ([], [region]):
        yield (
            f"SF_SAGEMAKER_KMS_KEY is a key of {key_region[0]}, and AWS_REGION is {region}: a job "
            "needs a key of its own region"
        )
