"""What moto keeps for the services around SageMaker, as far as SageMaker looks at it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID


@dataclass(frozen=True)
class S3Location:
    """s3://bucket/key, or https://…/bucket/key as the API takes it too."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "S3Location":
        bucket, _, key = uri.partition("://")[2].partition("/")
        return cls(bucket, key)

    def under(self, *parts: str) -> "S3Location":
        return S3Location(self.bucket, "/".join([self.key.rstrip("/"), *parts]).lstrip("/"))

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class AwsState:
    """One account's state in moto, read in place: such looks are no calls."""

    account = DEFAULT_ACCOUNT_ID

    def bucket_region(self, bucket: str) -> str | None:
        """None where there is no such bucket."""
        found = self._s3.buckets.get(bucket)
        return None if found is None else found.region_name

    def has_objects(self, prefix: S3Location) -> bool:
        keys = self._s3.buckets[prefix.bucket].keys
        return any(key.startswith(prefix.key) for key in list(keys))

    def has_object(self, location: S3Location) -> bool:
        return location.key in self._s3.buckets[location.bucket].keys

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """The contents of every object in S3, by address."""
        for name, bucket in list(self._s3.buckets.items()):
            for key, content in list(bucket.keys.items()):
                yield f"s3://{name}/{key}", content.value

    def remove_object(self, location: S3Location) -> None:
        self._s3.delete_object(location.bucket, location.key)

    def trust_policy(self, role_arn: str) -> str | None:
        """Who may assume the role; None where there is no such role."""
        for role in get_backend("iam")[self.account]["aws"].roles.values():
            if role.arn == role_arn:
                return role.assume_role_policy_document
        return None

    def has_subnet(self, region: str, subnet: str) -> bool:
        zones = get_backend("ec2")[self.account][region].subnets.values()
        return any(subnet in zone for zone in zones)

    def has_security_group(self, region: str, group: str) -> bool:
        return (
            get_backend("ec2")[self.account][region].get_security_group_from_id(group) is not None
        )

    @property
    def _s3(self) -> Any:
        return get_backend("s3")[self.account]["aws"]
