"""How Snowflake's credentials are read, what is wrong with them, and that nothing shows them."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from locations import REPOSITORY
from sf_sagemaker.snowflake_credentials import (
    InvalidCredentials,
    SnowflakeCredentials,
    read_snowflake_credentials,
)

PASSPHRASE = "canary-passphrase-6e1f"
PASSWORD = "canary-password-93ab"
TOKEN = "canary-token-55d0"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any = RSA, passphrase: str | None = None) -> str:
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


KEY = pem()
ENCRYPTED_KEY = pem(passphrase=PASSPHRASE)
PUBLIC_KEY = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read(environment: Mapping[str, str], secret: str | None = None) -> SnowflakeCredentials:
    def fetch(name: str) -> str:
        assert name == "prod/snowflake"
        assert secret is not None
        return secret

    if secret is not None:
        environment = {**environment, "SF_SAGEMAKER_SNOWFLAKE_SECRET": "prod/snowflake"}
    return read_snowflake_credentials(environment, fetch)


def parts(secret: str) -> list[str]:
    """What would give a secret away: all of it, or a line of a key."""
    return [secret, *[line for line in secret.splitlines() if len(line) == 64]]


def test_a_key_file_comes_before_password_and_token(tmp_path: Path) -> None:
    file = tmp_path / "rsa_key.p8"
    file.write_text(ENCRYPTED_KEY)
    found = read(
        {
            "SNOWFLAKE_PRIVATE_KEY_PATH": str(file),
            "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE,
            "SNOWFLAKE_PASSWORD": PASSWORD,
            "SNOWFLAKE_TOKEN": TOKEN,
        }
    )
    assert found.method == "key pair"
    assert found.resource_arguments() == {
        "private_key": ENCRYPTED_KEY.strip(),
        "private_key_password": PASSPHRASE,
    }


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        KEY.replace("\n", "\\n"),
        base64.b64encode(KEY.encode()).decode(),
        f"\n{KEY}\n",
    ],
    ids=["as it is", "on one line", "base64", "with blank lines"],
)
def test_a_key_in_a_variable(written: str) -> None:
    found = read({"SNOWFLAKE_PRIVATE_KEY": written})
    assert found.private_key == KEY.strip()


def test_a_password_comes_before_a_token() -> None:
    found = read({"SNOWFLAKE_PASSWORD": PASSWORD, "SNOWFLAKE_TOKEN": TOKEN})
    assert found.resource_arguments() == {"password": PASSWORD}
    found = read({"SNOWFLAKE_PASSWORD": " ", "SNOWFLAKE_TOKEN": TOKEN})
    assert found.resource_arguments() == {
        "authenticator": "oauth",
        "additional_snowflake_connection_args": {"token": TOKEN},
    }


@pytest.mark.parametrize(
    ("secret", "method"),
    [
        ({"private_key": KEY}, "key pair"),
        ({"private_key": ENCRYPTED_KEY, "private_key_passphrase": PASSPHRASE}, "key pair"),
        ({"user": "trainer", "password": PASSWORD}, "password"),
        ({"token": TOKEN}, "OAuth token"),
    ],
)
def test_a_secret_comes_before_the_environment(secret: dict[str, str], method: str) -> None:
    found = read({"SNOWFLAKE_PASSWORD": "of the environment"}, json.dumps(secret))
    assert found.method == method
    assert found.source == "the secret 'prod/snowflake'"
    given = {name: value.strip() for name, value in secret.items() if name != "user"}
    kept = {name: value for name, value in vars(found).items() if name != "source" and value}
    assert kept == given


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (PASSWORD, "it is not JSON"),
        (KEY, "it is not JSON"),
        (json.dumps([PASSWORD]), "not an object"),
        (json.dumps({PASSWORD: TOKEN}), "none of its 1 fields is private_key, password or token"),
        (json.dumps({"password": {"value": PASSWORD}}), "its password is not a text"),
        (json.dumps({"private_key": PASSWORD}), "is not PEM"),
        (json.dumps({"private_key": ENCRYPTED_KEY}), "there is no passphrase"),
        (
            json.dumps({"private_key": ENCRYPTED_KEY, "private_key_passphrase": PASSWORD}),
            "the passphrase is wrong",
        ),
        (json.dumps({"private_key": KEY, "private_key_passphrase": PASSWORD}), "not encrypted"),
        (json.dumps({"private_key": PUBLIC_KEY}), "public key"),
        (json.dumps({"private_key": KEY[:400]}), "damaged or cut off"),
        (json.dumps({"private_key": pem(ec.generate_private_key(ec.SECP256R1()))}), "not an RSA"),
    ],
)
def test_a_secret_of_the_wrong_shape_is_named_and_not_shown(secret: str, message: str) -> None:
    with pytest.raises(InvalidCredentials, match=message) as raised:
        read({}, secret)
    said = "".join(_texts(raised.value))
    assert "prod/snowflake" in said
    for value in (PASSWORD, TOKEN, PASSPHRASE, *parts(KEY), *parts(ENCRYPTED_KEY)):
        assert value not in said


def _texts(error: BaseException | None) -> list[str]:
    """What a logged traceback says of an error and its causes."""
    if error is None:
        return []
    context = None if error.__suppress_context__ else error.__context__
    return [str(error), repr(error), *_texts(error.__cause__), *_texts(context)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no credentials for Snowflake: set SF_SAGEMAKER_SNOWFLAKE_SECRET"),
        ({"SNOWFLAKE_PRIVATE_KEY_PATH": KEY}, "expected the path of its file"),
        ({"SNOWFLAKE_PRIVATE_KEY_PATH": "/nowhere/key.p8"}, "No such file"),
        ({"SNOWFLAKE_PRIVATE_KEY_PATH": "k", "SNOWFLAKE_PRIVATE_KEY": KEY}, "one of them"),
        ({"SNOWFLAKE_PRIVATE_KEY": PASSWORD}, "SNOWFLAKE_PRIVATE_KEY is not PEM"),
    ],
)
def test_wrong_variables_are_named_and_not_shown(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidCredentials, match=message) as raised:
        read(environment)
    for value in (PASSWORD, *parts(KEY)):
        assert value not in "".join(_texts(raised.value))


def test_a_key_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "rsa_key.der"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(InvalidCredentials, match="not a PEM text"):
        read({"SNOWFLAKE_PRIVATE_KEY_PATH": str(file)})


@pytest.mark.parametrize(
    "environment",
    [
        {"SNOWFLAKE_PRIVATE_KEY": ENCRYPTED_KEY, "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE},
        {"SNOWFLAKE_PASSWORD": PASSWORD},
        {"SNOWFLAKE_TOKEN": TOKEN},
    ],
)
def test_no_way_to_log_in_shows_in_a_repr(environment: dict[str, str]) -> None:
    found = read(environment)
    for shown in (repr(found), str(found), f"{found}"):
        assert "source" in shown
        for secret in environment.values():
            assert not [part for part in parts(secret) if part in shown]


def test_dbt_gets_one_way_to_log_in_and_the_others_empty() -> None:
    def given(environment: dict[str, str]) -> dict[str, str]:
        variables = read(environment).dbt_environment()
        assert len(variables) == 5
        return {name: value for name, value in variables.items() if value}

    assert given(
        {"SNOWFLAKE_PRIVATE_KEY": ENCRYPTED_KEY, "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE}
    ) == {
        "DBT_ENV_SECRET_SNOWFLAKE_PRIVATE_KEY": ENCRYPTED_KEY.strip(),
        "DBT_ENV_SECRET_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE,
    }
    assert given({"SNOWFLAKE_PASSWORD": PASSWORD, "SNOWFLAKE_TOKEN": TOKEN}) == {
        "DBT_ENV_SECRET_SNOWFLAKE_PASSWORD": PASSWORD
    }
    assert given({"SNOWFLAKE_TOKEN": TOKEN}) == {
        "DBT_ENV_SECRET_SNOWFLAKE_TOKEN": TOKEN,
        "SNOWFLAKE_AUTHENTICATOR": "oauth",
    }


@pytest.mark.parametrize(
    "secret",
    [{"private_key": KEY}, {"password": PASSWORD}, {"token": TOKEN}],
    ids=["key", "password", "token"],
)
def test_dbt_takes_no_key_file_of_the_environment_beside_a_secret(secret: dict[str, str]) -> None:
    variables = {
        "SNOWFLAKE_PRIVATE_KEY_PATH": "/home/somebody/rsa_key.p8",
        **read({}, json.dumps(secret)).dbt_environment(),
    }
    profile = yaml.safe_load((REPOSITORY / "dbt_project" / "profiles.yml").read_text())
    target = profile["sf_sagemaker"]["outputs"]["snowflake"]

    def rendered(name: str) -> str:
        return jinja2.Template(target[name]).render(
            env_var=lambda it, default: variables.get(it, default)
        )

    assert rendered("private_key_path") == ""
    (way,) = secret
    assert [it for it in ("private_key", "password", "token") if rendered(it)] == [way]


def test_dbts_profile_reads_exactly_these_variables() -> None:
    profile = (REPOSITORY / "dbt_project" / "profiles.yml").read_text()
    given = set(read({"SNOWFLAKE_PASSWORD": PASSWORD}).dbt_environment())
    asked = set(re.findall(r"env_var\('(\w+)'", profile))
    assert given <= asked
    assert {name for name in asked if name.startswith("DBT_ENV_SECRET_")} <= given
