"""Connections to Snowflake: dagster-snowflake's resource, built when a step needs it.

dagster_snowflake takes 20 CPU seconds to import, and the credentials are read for each connection,
so that a key that was rotated is used from the next one on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sf_sagemaker.aws_settings import SnowflakeSettings
from sf_sagemaker.snowflake_credentials import SnowflakeCredentials

if TYPE_CHECKING:
    from dagster_snowflake import SnowflakeResource
    from snowflake.connector import SnowflakeConnection

# The connector's network_timeout stays unset: it also cancels each statement that runs longer.
_LOGIN_SECONDS = 60


class SnowflakeLogin:
    """Opens connections with settings and the credentials that `read_credentials` gives then."""

    def __init__(
        self, settings: SnowflakeSettings, read_credentials: Callable[[], SnowflakeCredentials]
    ) -> None:
        self._settings = settings
        self._read_credentials = read_credentials

    @contextmanager
    def connect(self) -> "Iterator[SnowflakeConnection]":
        """A connection, closed at the end of the block, also after an error.

        Raises what reading the credentials raises, and the connector's own errors.
        """
        with self._resource(self._read_credentials()).get_connection() as connection:
            try:
                yield connection  # pyright: ignore[reportReturnType]
            finally:
                connection.close()  # dagster-snowflake leaves it open where the block raises

    def _resource(self, credentials: SnowflakeCredentials) -> "SnowflakeResource":
        from dagster_snowflake import SnowflakeResource

        settings = self._settings
        address = {"host": settings.host, "port": settings.port, "protocol": settings.protocol}
        arguments = credentials.resource_arguments()
        additional = {
            **{name: value for name, value in address.items() if value is not None},
            **arguments.pop("additional_snowflake_connection_args", {}),
        }
        return SnowflakeResource(
            account=settings.account,
            user=settings.user,
            role=settings.role,
            warehouse=settings.warehouse,
            database=settings.database,
            schema=settings.schema_name,  # pyright: ignore[reportCallIssue]
            autocommit=True,  # without it, a commit follows the end of the block
            login_timeout=_LOGIN_SECONDS,
            additional_snowflake_connection_args=additional,
            **arguments,
        )
