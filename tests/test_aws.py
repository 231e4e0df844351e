"""What botocore says when a caller can't be known, and when a connection breaks."""

import pytest
from botocore import exceptions

from sf_sagemaker.aws import Aws, AwsUnavailable, CredentialsRefused, translated


@pytest.mark.parametrize(
    "error",
    [
        exceptions.NoCredentialsError(),
        exceptions.SSOTokenLoadError(profile_name="team", error_msg="no token"),
        exceptions.UnauthorizedSSOTokenError(),
    ],
)
def test_callers_without_credentials_are_told_what_to_set(
    error: exceptions.BotoCoreError,
) -> None:
    with (
        pytest.raises(CredentialsRefused, match=r"could not look: .*AWS_PROFILE"),
        translated("look"),
    ):
        raise error


def test_a_profile_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(CredentialsRefused, match="no-such-profile"):
        _ = Aws("us-east-1").region


def test_an_answer_that_breaks_off_may_come_whole_later() -> None:
    error = exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2)
    with pytest.raises(AwsUnavailable, match="could not read"), translated("read"):
        raise error
