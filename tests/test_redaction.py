"""What is taken out of a text that leaves the project, and what stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.redaction import REDACTED, redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("login failed: password=hunter2hunter2, user=ada", "hunter2hunter2"),
        ("{'user': 'ada', 'password': 'correct horse battery'}", "correct horse battery"),
        ("snowflake_private_key_passphrase: s3same!", "s3same!"),
        ("AWS_SECRET_ACCESS_KEY=abc/def+ghi", "abc/def+ghi"),
        ("postgresql://ada:lovelace@db.example.com/prod", "lovelace"),
        ("Authorization: Bearer abcdefgh.ijkl", "abcdefgh.ijkl"),
        ("posting with xoxb-1234-abcd", "xoxb-1234-abcd"),
        ("no access for AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=0a1b2c&x=1", "0a1b2c"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEv\nQIBAD\n-----END PRIVATE KEY-----", "QIBAD"),
        ("token eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl was refused", "c2lnbmF0dXJl"),
    ],
)
def test_secrets_are_known_by_their_form(text, secret):
    hidden = redact(text, {})
    assert secret not in hidden
    assert REDACTED in hidden


def test_what_is_said_around_a_secret_stays():
    assert (
        redact("250001: Failed to connect to ada@example.com with password=abcdef, retry", {})
        == f"250001: Failed to connect to ada@example.com with password={REDACTED}, retry"
    )
    harmless = "ColumnMissing: house_prices has no column 'prize' in [2014-12-29, 2015-01-05)"
    assert redact(harmless, {"HOME": "house_prices"}) == harmless


@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=6),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    name=st.sampled_from(["SNOWFLAKE_PASSWORD", "SLACK_BOT_TOKEN", "aws_secret_access_key", "OWN"]),
)
def test_a_variable_that_holds_a_secret_never_shows(secret, before, after, name):
    hidden = redact(f"{before}{secret}{after}", {name: secret}, ["OWN"])
    assert secret in REDACTED or secret not in hidden


def test_a_secret_within_another_leaves_nothing_of_the_longer_one():
    environment = {"A_TOKEN": "abcdef", "B_TOKEN": "abcdef-ghijkl"}
    assert redact("x abcdef-ghijkl y", environment) == f"x {REDACTED} y"
