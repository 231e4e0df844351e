"""What a base model is called: one text, from YAML to container, that says where the model comes from."""

import re
from dataclasses import dataclass
from typing import Literal

from sf_sagemaker.containers.errors import ContainerError

Kind = Literal["hub", "jumpstart", "s3", "folder", "package"]

PACKAGE_PREFIX = "package:"
JUMPSTART_PREFIX = "jumpstart:"
S3_PREFIX = "s3://"
ARCHIVE_SUFFIX = ".tar.gz"
FORMS = (
    "a hub id (organization/name, better organization/name@revision), "
    "jumpstart:<model id>[:<version>], s3://bucket/prefix or s3://bucket/…/model.tar.gz, "
    "an absolute folder, or package:<name>"
)

_HUB = re.compile(r"([A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?)(?:@([\w./-]{1,128}))?")
_JUMPSTART = re.compile(r"([A-Za-z0-9](?:-*[A-Za-z0-9]){0,62})(?::(\d{1,4}\.\d{1,4}\.\d{1,4}))?")
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[\w!.*'()=+@,:/ -]+")
_PACKAGE = re.compile(r"[A-Za-z0-9][\w.-]*")


class InvalidBaseModel(ContainerError, ValueError):
    """A text that names no base model."""


class BaseModelMissing(ContainerError):
    """A base model that isn't there."""


@dataclass(frozen=True)
class BaseModelName:
    """`name` is the hub's or JumpStart's id, the S3 address without a slash at its end, the folder,
    or the package; `version` the hub's revision or JumpStart's version, where one was named."""

    text: str
    kind: Kind
    name: str
    version: str | None = None

    @property
    def is_archive(self) -> bool:
        """Whether it is one gzipped tar in S3, and no prefix."""
        return self.kind == "s3" and self.name.endswith(ARCHIVE_SUFFIX)

    @classmethod
    def parse(cls, text: str) -> "BaseModelName":
        """Raises InvalidBaseModel."""
        if text.startswith(S3_PREFIX):
            if _S3.fullmatch(text) and "//" not in text.removeprefix(S3_PREFIX):
                return cls(text, "s3", text.rstrip("/"))
        elif text.startswith(JUMPSTART_PREFIX):
            if found := _JUMPSTART.fullmatch(text.removeprefix(JUMPSTART_PREFIX)):
                return cls(text, "jumpstart", found[1], found[2])
        elif text.startswith(PACKAGE_PREFIX):
            if _PACKAGE.fullmatch(text.removeprefix(PACKAGE_PREFIX)):
                return cls(text, "package", text.removeprefix(PACKAGE_PREFIX))
        elif text.startswith(("/", "~")):
            return cls(text, "folder", text)
        elif (found := _HUB.fullmatch(text)) and ".." not in text:
            return cls(text, "hub", found[1], found[2])
        raise InvalidBaseModel(f"{text!r} names no base model: expected {FORMS}")
