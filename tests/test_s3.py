"""What is special to S3 as object storage, against a server that speaks S3."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sf_sagemaker.aws import AccessDenied, Aws, AwsError, AwsUnavailable, CredentialsRefused
from sf_sagemaker.s3 import InvalidBucket, S3Storage
from sf_sagemaker.storage import KeyExists, KeyMissing
from sf_sagemaker.warehouse.errors import CorruptDataset
from sf_sagemaker.warehouse.manifests import open_parquet
from standins.s3 import REGION, new_bucket, s3_server

PART = 5 * 2**20  # S3 takes no smaller parts


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with s3_server() as client:
        yield client


@pytest.fixture
def storage(client: Any, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    monkeypatch.setattr("sf_sagemaker.s3._PART_BYTES", PART)
    return S3Storage(Aws(), new_bucket(client), "a/prefix")


def test_a_key_has_the_address_of_its_object(storage: S3Storage) -> None:
    assert storage.uri("b/1") == f"s3://{storage.bucket}/a/prefix/b/1"


def test_a_bucket_without_a_prefix_is_storage_too(storage: S3Storage) -> None:
    whole = S3Storage(Aws(), storage.bucket)
    whole.create("x/1", b"1")
    assert list(whole.list("x")) == ["x/1"]
    assert whole.uri("x/1") == f"s3://{storage.bucket}/x/1"
    whole.delete("x")
    assert list(whole.list("x")) == []


def test_lists_longer_than_a_page_are_whole_and_can_be_deleted(
    storage: S3Storage, client: Any
) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = [f"a/prefix/many/{number:04}" for number in range(1203)]
        list(pool.map(lambda n: client.put_object(Bucket=storage.bucket, Key=n, Body=b""), names))
    assert list(storage.list("many")) == [name.removeprefix("a/prefix/") for name in names]
    storage.delete("many")
    assert list(storage.list("many")) == []


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART + 12345])
def test_what_is_written_in_pieces_is_read_in_ranges(storage: S3Storage, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with storage.write("large") as file:
        for start in range(0, size, 2 * 2**20 + 1):
            file.write(content[start : start + 2 * 2**20 + 1])
    assert storage.size("large") == size
    with storage.open("large") as file:
        assert file.read() == content
        file.seek(-min(size, 100), io.SEEK_END)
        assert file.read() == content[-100:]
        file.seek(size // 2)
        assert file.read(10) == content[size // 2 :][:10]
        assert file.tell() == min(size // 2 + 10, size)


@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_write_that_fails_leaves_nothing(storage: S3Storage, size: int) -> None:
    def write_half() -> None:
        with storage.write("half") as file:
            file.write(b"x" * size)
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_half()
    with pytest.raises(KeyMissing):
        storage.size("half")
    uploads = Aws().client("s3").list_multipart_uploads(Bucket=storage.bucket)
    assert not uploads.get("Uploads")


@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_write_over_what_is_there_is_refused(storage: S3Storage, size: int) -> None:
    storage.create("key", b"first")
    with pytest.raises(KeyExists), storage.write("key") as file:
        file.write(b"x" * size)
    assert storage.read("key") == b"first"


def test_parquet_is_read_from_its_footer(storage: S3Storage) -> None:
    table = pa.table({"x": list(range(1000)), "y": ["a"] * 1000})
    with storage.write("t.parquet") as file:
        pq.write_table(table, file)
    with open_parquet(storage, "t.parquet") as parquet:
        assert parquet.metadata.num_rows == 1000
        assert parquet.read().equals(table)
    storage.create("no.parquet", b"PAR1")
    for key in ("no.parquet", "missing.parquet"):
        with pytest.raises(CorruptDataset, match=key), open_parquet(storage, key):
            pass


def test_a_bucket_that_is_not_there_or_elsewhere_is_named(storage: S3Storage) -> None:
    storage.check()
    missing = S3Storage(Aws(), "no-such-bucket-anywhere")
    with pytest.raises(InvalidBucket, match="no bucket no-such-bucket-anywhere"):
        missing.check()
    with pytest.raises(InvalidBucket, match="no bucket"):
        missing.create("x", b"")
    elsewhere = S3Storage(Aws("us-west-2"), storage.bucket)
    with pytest.raises(InvalidBucket, match=f"lies in {REGION}.*AWS_REGION={REGION}"):
        elsewhere.check()
    with pytest.raises(InvalidBucket, match="not the name"):
        S3Storage(Aws(), "s3://bucket")


def test_a_lost_answer_to_a_write_is_not_taken_for_another_writer(storage: S3Storage) -> None:
    client = storage._client
    put = client.put_object

    def put_twice(**request):
        put(**request)  # written, but nobody heard
        return put(**request)

    client.put_object = put_twice
    try:
        storage.create("claim", b"mine")
    finally:
        client.put_object = put
    assert storage.read("claim") == b"mine"


@pytest.mark.parametrize("ours", [True, False])
def test_an_upload_in_parts_whose_end_was_not_heard_is_known_again(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    client = storage._client
    complete = client.complete_multipart_upload

    def lose(**request):
        if ours:
            complete(**request)  # done, but nobody heard; the upload is gone
        else:
            client.put_object(Bucket=request["Bucket"], Key=request["Key"], Body=b"another's")
            client.abort_multipart_upload(
                **{name: request[name] for name in ("Bucket", "Key", "UploadId")}
            )
        raise client.exceptions.ClientError(
            {"Error": {"Code": "NoSuchUpload", "Message": "no"}}, "CompleteMultipartUpload"
        )

    monkeypatch.setattr(client, "complete_multipart_upload", lose)
    if ours:
        with storage.write("large") as file:
            file.write(b"x" * (PART + 1))
        assert storage.size("large") == PART + 1
    else:
        with pytest.raises(KeyExists), storage.write("large") as file:
            file.write(b"x" * (PART + 1))
        assert storage.read("large") == b"another's"


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, AwsUnavailable),
        ("AccessDenied", 403, AccessDenied),
        ("ExpiredToken", 400, CredentialsRefused),
        ("InvalidAccessKeyId", 403, CredentialsRefused),
        ("EntityTooLarge", 400, AwsError),
    ],
)
def test_refusals_say_what_to_do(
    storage: S3Storage, code: str, status: int, kind: type[AwsError]
) -> None:
    from botocore.exceptions import ClientError

    def refuse(**_):
        answer = {
            "Error": {"Code": code, "Message": "no"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
        raise ClientError(answer, "GetObject")  # pyright: ignore[reportArgumentType]

    storage._client.get_object = refuse
    with pytest.raises(kind, match=f"read s3://.*/a/prefix/x: {code}") as raised:
        storage.read("x")
    assert raised.type is kind


def test_no_credentials_are_named(monkeypatch: pytest.MonkeyPatch, storage: S3Storage) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
        S3Storage(Aws(), storage.bucket).read("x")
