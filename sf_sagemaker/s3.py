"""Object storage in S3: a prefix of a bucket.

Create-only writes rest on S3's conditional requests (`If-None-Match: *`). Large objects are written
in parts and read by ranges, so that neither is ever whole in memory.
"""

import io
import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, BinaryIO, cast

from sf_sagemaker.aws import Aws, AwsError, translated
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.storage import KeyExists, KeyMissing, checked_key

logger = logging.getLogger(__name__)

_PART_BYTES = 16 * 2**20  # 10,000 parts at most: objects up to 156 GiB
_READ_BYTES = 2**20
_DELETE_BATCH = 1000  # keys of one DeleteObjects, S3 API reference
_CONFLICT_TRIES = 5
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MISSING = ("NoSuchKey", "404", "NotFound")


class InvalidBucket(SfSagemakerError):
    """A bucket that doesn't exist, lies in another region, or can't have that name."""

    permanent = True


class S3Storage:
    """The keys under `prefix` in a bucket, which may be empty for all of it."""

    def __init__(self, aws: Aws, bucket: str, prefix: str = "") -> None:
        if not _BUCKET.fullmatch(bucket):
            raise InvalidBucket(f"{bucket!r} is not the name of an S3 bucket")
        self._aws = aws
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._lock = Lock()
        self._checked = False

    @property
    def project(self) -> str:
        """What tells this deployment's jobs and models from all others of an account."""
        return f"s3://{self.bucket}/{self.prefix}"

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._name(key)}"

    def read(self, key: str) -> bytes:
        with self._asking(key, "read"):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key))
            return answer["Body"].read()

    def create(self, key: str, content: bytes) -> None:
        with self.write(key) as file:
            file.write(content)

    def open(self, key: str) -> BinaryIO:
        with self._asking(key, "read"):
            head = self._client.head_object(Bucket=self.bucket, Key=self._name(key))
        return cast(
            "BinaryIO",
            io.BufferedReader(
                _Object(self, key, head["ContentLength"], head["ETag"]), buffer_size=_READ_BYTES
            ),
        )

    @contextmanager
    def write(self, key: str) -> Iterator[BinaryIO]:
        upload = _Upload(self, key)
        try:
            yield cast("BinaryIO", upload)
            upload.commit()
        finally:
            upload.abort()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self._name(prefix) + "/"
        start = len(self.prefix) + 1 if self.prefix else 0
        with self._asking(prefix, "list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=folder
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    # A console's "folder" is an empty object whose name ends with a slash.
                    if not entry["Key"].endswith("/"):
                        yield entry["Key"][start:]

    def size(self, key: str) -> int:
        with self._asking(key, "look at"):
            head = self._client.head_object(Bucket=self.bucket, Key=self._name(key))
            return head["ContentLength"]

    def delete(self, prefix: str) -> None:
        start = len(self.prefix) + 1 if self.prefix else 0
        names = [self._name(prefix), *(self._name(key) for key in self.list(prefix))]
        for first in range(0, len(names), _DELETE_BATCH):
            batch = [{"Key": name} for name in names[first : first + _DELETE_BATCH]]
            with self._asking(prefix, "delete"):
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            for error in answer.get("Errors", ()):
                raise AwsError(
                    f"could not delete {self.uri(error['Key'][start:])}: {error['Code']}: "
                    f"{error.get('Message', '')}",
                    error["Code"],
                )

    def check(self) -> None:
        """That the bucket is there and lies in the region of the clients; asked until it was so once.

        Raises InvalidBucket.
        """
        with self._lock:
            if not self._checked:
                self._check()
                self._checked = True

    def _check(self) -> None:
        region = self._aws.region
        try:
            with translated(f"look at bucket {self.bucket}"):
                head = self._client.head_bucket(Bucket=self.bucket)
        except AwsError as error:
            if error.code in ("404", "NoSuchBucket"):
                raise InvalidBucket(
                    f"there is no bucket {self.bucket}: create it in {region}, or correct "
                    "SF_SAGEMAKER_STORAGE"
                ) from error
            raise
        found = head["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        if found is not None and found != region:
            raise InvalidBucket(
                f"bucket {self.bucket} lies in {found}, and training jobs would run in {region}: "
                "SageMaker reads data of its own region only. Use a bucket there, or set "
                f"AWS_REGION={found}"
            )

    @property
    def _client(self) -> Any:
        return self._aws.client("s3")

    def _name(self, key: str) -> str:
        name = checked_key(key).as_posix()
        return f"{self.prefix}/{name}" if self.prefix else name

    @contextmanager
    def _asking(self, key: str, doing: str) -> Iterator[None]:
        """Raises KeyMissing, InvalidBucket, or what else AWS's refusal means."""
        try:
            with translated(f"{doing} {self.uri(key)}"):
                yield
        except AwsError as error:
            if error.code in _MISSING:
                raise KeyMissing(f"{self.uri(key)} does not exist") from error
            if error.code == "NoSuchBucket":
                raise InvalidBucket(
                    f"there is no bucket {self.bucket}: create it, or correct SF_SAGEMAKER_STORAGE"
                ) from error
            raise


class _Object(io.RawIOBase):
    """An object of which parts are read. One that is replaced meanwhile is an error."""

    def __init__(self, storage: S3Storage, key: str, size: int, etag: str) -> None:
        super().__init__()
        self._storage = storage
        self._key = key
        self._size = size
        self._etag = etag
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}, before the start of the object")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        # The default reads pieces of a few kilobytes, each of them a request.
        return self._read(self._size - self._position)

    def readinto(self, buffer: Any) -> int:
        content = self._read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _read(self, size: int) -> bytes:
        end = min(self._position + size, self._size)
        if end <= self._position:
            return b""
        storage = self._storage
        with storage._asking(self._key, "read"):
            answer = storage._client.get_object(
                Bucket=storage.bucket,
                Key=storage._name(self._key),
                Range=f"bytes={self._position}-{end - 1}",
                IfMatch=self._etag,
            )
            content = answer["Body"].read()
        self._position += len(content)
        return content


@dataclass
class _Multipart:
    """An upload in parts that has begun."""

    id: str
    parts: list[dict[str, Any]]


class _Upload(io.RawIOBase):
    """An object that is written in order; it exists once it is committed."""

    def __init__(self, storage: S3Storage, key: str) -> None:
        super().__init__()
        self._storage = storage
        self._key = key
        self._target = {"Bucket": storage.bucket, "Key": storage._name(key)}
        self._buffer = bytearray()
        self._position = 0
        self._multipart: _Multipart | None = None
        self._claim = uuid.uuid4().hex

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        # Large pieces are passed on part by part, so that no more than a part is held.
        for start in range(0, len(view), _PART_BYTES):
            self._buffer += view[start : start + _PART_BYTES]
            while len(self._buffer) >= _PART_BYTES:
                self._send(bytes(self._buffer[:_PART_BYTES]))
                del self._buffer[:_PART_BYTES]
        self._position += len(view)
        return len(view)

    def commit(self) -> None:
        """Makes the object. Raises KeyExists where there is one."""
        if self._multipart is None:
            self._conditionally(
                lambda client: client.put_object(
                    **self._target,
                    Body=bytes(self._buffer),
                    IfNoneMatch="*",
                    Metadata={"claim": self._claim},
                )
            )
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        multipart = self._multipart
        self._conditionally(
            lambda client: client.complete_multipart_upload(
                **self._target,
                UploadId=multipart.id,
                MultipartUpload={"Parts": multipart.parts},
                IfNoneMatch="*",
            )
        )
        self._multipart = None

    def abort(self) -> None:
        """Takes back what was sent, unless it was committed."""
        multipart, self._multipart = self._multipart, None
        self._buffer.clear()
        if multipart is not None:
            try:
                with self._storage._asking(self._key, "break off writing"):
                    self._storage._client.abort_multipart_upload(
                        **self._target, UploadId=multipart.id
                    )
            except AwsError as error:
                # Why the writing ended matters more; the bucket's lifecycle removes the parts.
                logger.warning("%s", error)

    def _send(self, part: bytes) -> None:
        client = self._storage._client
        with self._storage._asking(self._key, "write"):
            if self._multipart is None:
                begun = client.create_multipart_upload(
                    **self._target, Metadata={"claim": self._claim}
                )
                self._multipart = _Multipart(begun["UploadId"], [])
            number = len(self._multipart.parts) + 1
            answer = client.upload_part(
                **self._target, UploadId=self._multipart.id, PartNumber=number, Body=part
            )
            self._multipart.parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def _conditionally(self, request: Any) -> None:
        """Makes a conditional request, which S3 answers with a conflict while another is made."""
        uri = self._storage.uri(self._key)
        for attempt in range(1, _CONFLICT_TRIES + 1):
            try:
                with self._storage._asking(self._key, "write"):
                    request(self._storage._client)
                return
            except AwsError as error:
                # An upload in parts is gone once it is complete, or has met a conflict.
                if error.code in ("PreconditionFailed", "NoSuchUpload"):
                    owner = self._owner()
                    if owner == self._claim:
                        return
                    if owner is not None or error.code == "PreconditionFailed":
                        raise KeyExists(f"{uri} exists already and is never overwritten") from error
                if error.code != "ConditionalRequestConflict" or attempt == _CONFLICT_TRIES:
                    raise

    def _owner(self) -> str | None:
        """Whose write the object is: perhaps an earlier try of this one, whose answer was lost."""
        try:
            with self._storage._asking(self._key, "look at"):
                head = self._storage._client.head_object(**self._target)
        except KeyMissing:
            return None
        return head.get("Metadata", {}).get("claim", "")
