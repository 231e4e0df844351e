"""How to log in to Snowflake: a key pair, a password or an OAuth token, read when a step needs it.

Values are in no repr, log or error: errors name variables and fields, and never what they hold.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sf_sagemaker.errors import SfSagemakerError

if TYPE_CHECKING:
    from sf_sagemaker.aws import Aws

SECRET_VARIABLE = "SF_SAGEMAKER_SNOWFLAKE_SECRET"
KEY_VARIABLE = "SNOWFLAKE_PRIVATE_KEY"
KEY_PATH_VARIABLE = "SNOWFLAKE_PRIVATE_KEY_PATH"
PASSPHRASE_VARIABLE = "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE"
PASSWORD_VARIABLE = "SNOWFLAKE_PASSWORD"
TOKEN_VARIABLE = "SNOWFLAKE_TOKEN"

_WAYS = "private_key (and private_key_passphrase, if it is encrypted), password or token"
_MAKE_A_KEY = (
    "make one with `openssl genrsa 2048 | openssl pkcs8 -topk8 -v2 aes-256-cbc -out rsa_key.p8`"
)


class InvalidCredentials(SfSagemakerError):
    """Credentials of Snowflake that are missing, contradict one another or can't be read."""


class SecretUnavailable(SfSagemakerError):
    """A secret that Secrets Manager doesn't give out."""


@dataclass(frozen=True)
class SnowflakeCredentials:
    """One way to log in; the first that is set counts: key pair, password, OAuth token.

    `source` says where they come from, for people. `private_key` is a PEM text.
    Raises InvalidCredentials for a key that can't be used.
    """

    source: str
    private_key: str | None = field(default=None, repr=False)
    private_key_passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.private_key is not None:
            _check_key(self.private_key, self.private_key_passphrase, self.source)
        elif self.password is None and self.token is None:
            raise InvalidCredentials(
                f"{self.source} has no credentials for Snowflake; expected {_WAYS}"
            )

    @property
    def method(self) -> str:
        """How they log in, for people."""
        if self.private_key is not None:
            return "key pair"
        return "password" if self.password is not None else "OAuth token"

    def resource_arguments(self) -> dict[str, Any]:
        """The arguments of dagster_snowflake's SnowflakeResource that log in."""
        if self.private_key is not None:
            return {
                "private_key": self.private_key,
                "private_key_password": self.private_key_passphrase,
            }
        if self.password is not None:
            return {"password": self.password}
        return {
            "authenticator": "oauth",
            "additional_snowflake_connection_args": {"token": self.token},
        }

    def dbt_environment(self) -> dict[str, str]:
        """The variables of the dbt target `snowflake` in dbt_project/profiles.yml.

        All are set, since those that are empty must hide others of the surrounding environment; dbt
        keeps what has this prefix out of its logs.
        """
        prefix = "DBT_ENV_SECRET_SNOWFLAKE_"
        key = self.private_key is not None
        password = not key and self.password is not None
        return {
            f"{prefix}PRIVATE_KEY": self.private_key or "",
            f"{prefix}PRIVATE_KEY_PASSPHRASE": (self.private_key_passphrase or "") if key else "",
            f"{prefix}PASSWORD": (self.password or "") if password else "",
            f"{prefix}TOKEN": "" if key or password else (self.token or ""),
            "SNOWFLAKE_AUTHENTICATOR": "" if key or password else "oauth",
        }


def read_snowflake_credentials(
    environment: Mapping[str, str], fetch_secret: Callable[[str], str]
) -> SnowflakeCredentials:
    """The credentials of a secret, where SF_SAGEMAKER_SNOWFLAKE_SECRET names one, or of the environment.

    `fetch_secret` gives the text of a secret by its name or ARN. Raises InvalidCredentials, and what
    `fetch_secret` raises.
    """
    values = {name: value for name, value in environment.items() if value.strip()}
    secret = values.get(SECRET_VARIABLE)
    if secret is not None:
        return _from_secret(secret, fetch_secret(secret))
    if KEY_VARIABLE in values and KEY_PATH_VARIABLE in values:
        raise InvalidCredentials(
            f"both {KEY_VARIABLE} and {KEY_PATH_VARIABLE} are set: expected one of them"
        )
    key = values.get(KEY_VARIABLE)
    source = f"the variable {KEY_VARIABLE}"
    if KEY_PATH_VARIABLE in values:
        key, source = _key_file(values[KEY_PATH_VARIABLE]), f"the file of {KEY_PATH_VARIABLE}"
    if key is not None:
        return SnowflakeCredentials(
            source, private_key=_pem(key), private_key_passphrase=values.get(PASSPHRASE_VARIABLE)
        )
    for variable, name in ((PASSWORD_VARIABLE, "password"), (TOKEN_VARIABLE, "token")):
        if variable in values:
            return SnowflakeCredentials(f"the variable {variable}", **{name: values[variable]})
    raise InvalidCredentials(
        f"there are no credentials for Snowflake: set {SECRET_VARIABLE} to the name of a secret, or "
        f"{KEY_PATH_VARIABLE} or {KEY_VARIABLE} (and {PASSPHRASE_VARIABLE}, if the key is encrypted), "
        f"or {PASSWORD_VARIABLE}, or {TOKEN_VARIABLE}"
    )


def secrets_manager(aws: "Aws") -> Callable[[str], str]:
    """Gives the text of a secret by its name or ARN. What it gives raises SecretUnavailable."""

    def fetch(secret: str) -> str:
        from sf_sagemaker.aws import AwsError, translated

        try:
            with translated(f"read the secret {secret!r} in {aws.region}"):
                answer = aws.client("secretsmanager").get_secret_value(SecretId=secret)
        except AwsError as error:
            raise SecretUnavailable(f"{error}. {_REFUSALS.get(error.code, '')}".rstrip()) from None
        if "SecretString" not in answer:
            raise InvalidCredentials(
                f"the secret {secret!r} is binary; expected a JSON text with {_WAYS}"
            )
        return answer["SecretString"]

    return fetch


_REFUSALS = {
    "ResourceNotFoundException": "There is no such secret in this account and region",
    "DecryptionFailure": "The caller can't use the KMS key that it is encrypted with",
    "InvalidRequestException": "It is marked for deletion, or can't be read now",
}


def _from_secret(name: str, text: str) -> SnowflakeCredentials:
    wrong = f"the secret {name!r} doesn't hold what is expected, a JSON object with {_WAYS}"
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        # The error's own text and context hold the secret.
        raise InvalidCredentials(f"{wrong}: it is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidCredentials(f"{wrong}: it is JSON, but not an object")
    fields = ("private_key", "private_key_passphrase", "password", "token")
    for field_name in fields:
        if not isinstance(found.get(field_name, ""), str):
            raise InvalidCredentials(f"{wrong}: its {field_name} is not a text")
    values = {name: found[name] for name in fields if found.get(name)}
    if not {"private_key", "password", "token"} & set(values):
        raise InvalidCredentials(
            f"{wrong}: none of its {len(found)} fields is private_key, password or token"
        )
    if "private_key" in values:
        values["private_key"] = _pem(values["private_key"])
    return SnowflakeCredentials(f"the secret {name!r}", **values)


def _key_file(path: str) -> str:
    if "-----BEGIN" in path:
        raise InvalidCredentials(
            f"{KEY_PATH_VARIABLE} holds a key, expected the path of its file; a key itself goes into "
            f"{KEY_VARIABLE}"
        )
    try:
        return Path(path).expanduser().read_text(encoding="ascii")
    except OSError as error:
        raise InvalidCredentials(
            f"{KEY_PATH_VARIABLE} is {path!r}, which can't be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise InvalidCredentials(
            f"{KEY_PATH_VARIABLE} is {path!r}, which is not a PEM text; {_MAKE_A_KEY}"
        ) from None


def _pem(key: str) -> str:
    """The key as PEM with line ends, also where it came base64-encoded or with `\\n` written out."""
    key = key.replace("\\n", "\n").strip()
    if not key.startswith("-----BEGIN"):
        try:
            decoded = base64.b64decode(key, validate=True).decode("ascii").strip()
        except (binascii.Error, UnicodeDecodeError):
            return key
        if decoded.startswith("-----BEGIN"):
            return decoded
    return key


def _check_key(pem: str, passphrase: str | None, source: str) -> None:
    """Raises InvalidCredentials where the key isn't an RSA key that the passphrase opens."""
    if not pem.startswith("-----BEGIN"):
        raise InvalidCredentials(
            f"the private key of {source} is not PEM: expected a text that starts with -----BEGIN "
            f"(ENCRYPTED) PRIVATE KEY-----; {_MAKE_A_KEY}"
        )
    if "PUBLIC KEY" in pem.splitlines()[0]:
        raise InvalidCredentials(f"{source} holds a public key; expected the private key")
    encrypted = any("ENCRYPTED" in line for line in pem.splitlines()[:2])
    if encrypted and not passphrase:
        raise InvalidCredentials(
            f"the private key of {source} is encrypted, and there is no passphrase: set "
            f"{PASSPHRASE_VARIABLE}, or private_key_passphrase in the secret"
        )
    if passphrase and not encrypted:
        raise InvalidCredentials(
            f"there is a passphrase, and the private key of {source} is not encrypted: leave out "
            "the passphrase"
        )
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidCredentials(
            f"the private key of {source} can't be opened: "
            + (
                "the passphrase is wrong, or its encryption is outdated"
                if encrypted
                else "it is damaged or cut off"
            )
            + f"; {_MAKE_A_KEY}"
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise InvalidCredentials(
            f"the private key of {source} is not an RSA key, which Snowflake needs; {_MAKE_A_KEY}"
        )
