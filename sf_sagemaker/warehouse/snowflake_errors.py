"""What Snowflake's errors mean, and what to do about them.

The connector's own texts name objects and say what was wrong; credentials aren't among them, and none
are put in here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sf_sagemaker.warehouse.errors import (
    AccessDenied,
    ComputeUnavailable,
    IntegrationRefused,
    LoginRefused,
    QueryFailed,
    StatementStopped,
    WarehouseError,
    WarehouseUnreachable,
)

if TYPE_CHECKING:
    from snowflake.connector.errors import Error

# Numbers as the service gives them (https://docs.snowflake.com, "Snowflake error codes").
_LOGIN: dict[int, str] = {
    390100: "the user name or password is wrong: correct them",
    390101: "the user is disabled, or its password must be changed: ask an administrator",
    390114: "the session's token has expired: run again",
    390144: (
        "the key pair is not accepted: its public key must be set for this user (ALTER USER … SET "
        "RSA_PUBLIC_KEY), the account's and user's names must be right, and this machine's clock too"
    ),
    390189: "the role doesn't exist or isn't granted to this user: correct SNOWFLAKE_ROLE, or grant it",
    390303: "the OAuth token is not accepted: fetch another one",
    390318: "the OAuth token has expired: fetch another one",
    390422: "this machine's address is not allowed by the account's network policy: have it added",
    390432: "this machine's address is not allowed by the account's network policy: have it added",
}
_COMPUTE = (606, 90073, 90064, 2043)
_STOPPED = {
    604: "it was cancelled",
    630: "it ran into its time limit (STATEMENT_TIMEOUT_IN_SECONDS)",
    631: "it was cancelled with its session",
}
_MISSING, _FORBIDDEN = 2003, 3001
_INTEGRATION = re.compile(
    r"integration|AWS_ROLE|access denied|Failed to access remote file|external ?id", re.IGNORECASE
)
_EXPIRED = re.compile(r"expired", re.IGNORECASE)


def login_failed(error: Error) -> WarehouseError:
    """The error of a connection that didn't come about."""
    from snowflake.connector.errors import DatabaseError, OperationalError

    number, said = _number(error), _words(error)
    if number in _LOGIN:
        advice = _LOGIN[number]
        return LoginRefused(f"Snowflake refused the login: {said}. {advice}")
    if re.search(r"JWT", said):
        return LoginRefused(f"Snowflake refused the login: {said}. {_LOGIN[390144]}")
    if _EXPIRED.search(said):
        return LoginRefused(f"Snowflake refused the login: {said}. Renew what has expired")
    if isinstance(error, OperationalError) or not isinstance(error, DatabaseError):
        return WarehouseUnreachable(
            f"Snowflake can't be reached: {said}. Check SNOWFLAKE_ACCOUNT (organization-"
            "account, without .snowflakecomputing.com), the network and its proxy, and run again"
        )
    return LoginRefused(f"Snowflake refused the login: {said}. Check user, role and credentials")


def statement_failed(error: Error, sql: str) -> WarehouseError:
    """The error of a statement that failed, by its cause."""
    from snowflake.connector.errors import DatabaseError, OperationalError

    number, said = _number(error), _words(error)
    excerpt = sql if len(sql) <= 500 else sql[:500] + " …"
    statement = f"\nStatement: {excerpt}"
    query = f" (query {error.sfqid})" if error.sfqid else ""
    if number in _STOPPED:
        return StatementStopped(
            f"Snowflake stopped a statement{query}: {_STOPPED[number]} ({said}). Run again; where the "
            f"time limit is too short for the data, use a larger warehouse or a longer limit{statement}"
        )
    if number in _COMPUTE and "arehouse" in said:
        return ComputeUnavailable(
            f"Snowflake has no running warehouse for this session: {said}. Correct "
            "SNOWFLAKE_WAREHOUSE, grant USAGE on it to the role, let it resume by itself "
            f"(AUTO_RESUME = TRUE), or wait until its resource monitor allows it{statement}"
        )
    if sql.lstrip().lower().startswith("copy into") and _INTEGRATION.search(said):
        return IntegrationRefused(
            f"Snowflake can't write to the storage location: {said}. The storage integration must "
            "exist, be granted to the role (GRANT USAGE ON INTEGRATION), allow the bucket and prefix "
            "(STORAGE_ALLOWED_LOCATIONS), and its AWS role must trust Snowflake's user and external "
            f"id; without SF_SAGEMAKER_STORAGE_INTEGRATION rows are streamed instead{statement}"
        )
    if number == _FORBIDDEN:
        return AccessDenied(
            f"the role of this session lacks a privilege: {said}. Grant it, or use another "
            f"SNOWFLAKE_ROLE{statement}"
        )
    if number == _MISSING:
        return AccessDenied(
            f"Snowflake: {said}. Either there is no such object, or the role of this session has no "
            f"privilege on it, which Snowflake doesn't tell apart: build it, or grant it{statement}"
        )
    if number in _LOGIN:
        return LoginRefused(f"Snowflake ended the session: {said}. {_LOGIN[number]}")
    if isinstance(error, OperationalError) or not isinstance(error, DatabaseError):
        return WarehouseUnreachable(
            f"the connection to Snowflake broke: {said}. Check the network and run again{statement}"
        )
    return QueryFailed(f"Snowflake{query}: {said}{statement}")


def _number(error: Error) -> int:
    return int(error.errno) if error.errno is not None else -1


def _words(error: Error) -> str:
    """What Snowflake said, on one line, without the numbers that the connector puts in front."""
    text = str(error.raw_msg or error.msg or error)
    text = re.sub(r"^\d{6} \([0-9A-Z]+\): [0-9a-f-]*:? ?", "", text)
    return " ".join(text.split()).rstrip(".")
