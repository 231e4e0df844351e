"""What the deployment `aws` needs of Snowflake, checked by doing it with objects of its own."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from sf_sagemaker.aws_settings import AwsSettings, SnowflakeSettings
from sf_sagemaker.commands.checks import Check, CheckFailed
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.snowflake_credentials import SnowflakeCredentials
from sf_sagemaker.warehouse.errors import WarehouseError
from sf_sagemaker.warehouse.manifests import open_parquet
from sf_sagemaker.warehouse.snowflake import SnowflakeSession, SnowflakeWarehouse

_STAGED = '"__rows"'


class SnowflakeChecks:
    """The steps, over one session, which is open until `close`."""

    def __init__(
        self,
        settings: SnowflakeSettings,
        aws: AwsSettings,
        read_credentials: Callable[[], SnowflakeCredentials],
        warehouse: SnowflakeWarehouse,
        storage: S3Storage,
    ) -> None:
        self._settings = settings
        self._aws = aws
        self._read_credentials = read_credentials
        self._warehouse = warehouse
        self._storage = storage
        self._stack = ExitStack()
        self._opened: SnowflakeSession | None = None
        self._probe = f"SF_SAGEMAKER_CHECK_{uuid.uuid4().hex[:8].upper()}"

    def close(self) -> None:
        self._stack.close()

    def checks(self) -> Iterator[Check]:
        yield Check("Snowflake credentials", self._credentials)
        yield Check("Snowflake login", self._login, needs=["Snowflake credentials"])
        for name, find in (
            ("Snowflake role", self._role),
            ("Snowflake warehouse", self._compute),
            ("Snowflake database", self._database),
        ):
            yield Check(name, find, needs=["Snowflake login"])
        yield Check(
            "Snowflake schemas",
            self._schemas,
            needs=["Snowflake database", "Snowflake warehouse"],
        )
        if self._aws.storage_integration is not None:
            yield Check("storage integration", self._integration, needs=["Snowflake login"])
        yield Check(
            "export",
            self._export,
            needs=["Snowflake database", "Snowflake warehouse", "storage"],
        )

    @property
    def _session(self) -> SnowflakeSession:
        if self._opened is None:
            self._opened = self._stack.enter_context(self._warehouse.reading())
        return self._opened

    def _credentials(self) -> str:
        found = self._read_credentials()
        return f"{found.method} from {found.source}"

    def _login(self) -> str:
        [(version,)] = self._session.rows("select current_version()")
        return f"{self._settings.user} in {self._settings.account}, Snowflake {version}"

    def _role(self) -> str:
        [(role,)] = self._session.rows("select current_role()")
        wanted = self._settings.role.upper()
        if str(role).upper() != wanted:
            raise CheckFailed(
                f"the session's role is {role}, and SNOWFLAKE_ROLE is {wanted}: GRANT ROLE {wanted} TO "
                f"USER {self._settings.user}"
            )
        return wanted

    def _compute(self) -> str:
        [(warehouse,)] = self._session.rows("select current_warehouse()")
        wanted = self._settings.warehouse.upper()
        if str(warehouse).upper() != wanted:
            raise CheckFailed(
                f"the session has no warehouse {wanted}: create it, or GRANT USAGE ON WAREHOUSE "
                f"{wanted} TO ROLE {self._settings.role}"
            )
        return wanted

    def _database(self) -> str:
        [(database, schema)] = self._session.rows("select current_database(), current_schema()")
        wanted = (self._settings.database.upper(), self._settings.schema_name.upper())
        if str(database).upper() != wanted[0]:
            raise CheckFailed(
                f"the session has no database {wanted[0]}: create it, or GRANT USAGE ON DATABASE "
                f"{wanted[0]} TO ROLE {self._settings.role}"
            )
        if str(schema).upper() != wanted[1]:
            raise CheckFailed(
                f"the session has no schema {'.'.join(wanted)}: create it, or GRANT USAGE ON SCHEMA "
                f"{'.'.join(wanted)} TO ROLE {self._settings.role}"
            )
        return ".".join(wanted)

    def _schemas(self) -> str:
        """Raw tables and dbt models live in schemas that the project makes."""
        role, database = self._settings.role, self._settings.database
        schema = f"{database}.{self._probe}"
        # A session of its own: a schema that is created becomes the session's, and is then dropped.
        with self._warehouse.reading() as session:
            with _or(f"GRANT CREATE SCHEMA ON DATABASE {database} TO ROLE {role}"):
                session.execute(f"create schema {schema}")
            try:
                session.execute(f"create table {schema}.PROBE (NUMBER integer)")
                session.execute(f"insert into {schema}.PROBE values (1)")
                session.execute(f"create view {schema}.PROBE_VIEW as select * from {schema}.PROBE")
                rows = session.rows(f"select * from {schema}.PROBE_VIEW")
            finally:
                with suppress(WarehouseError):
                    session.execute(f"drop schema {schema} cascade")
        if rows != [(1,)]:
            raise CheckFailed(f"a row that was inserted into {schema} came back as {rows}")
        return f"{role} may create schemas, tables and views in {database}"

    def _integration(self) -> str:
        name = self._aws.storage_integration
        location = f"{self._aws.storage}/datasets/"
        with _or(
            f"Create it (docs/production.md), and GRANT USAGE ON INTEGRATION {name} TO ROLE "
            f"{self._settings.role}"
        ):
            described = self._session.rows(f"describe integration {name}")
        found = {str(row[0]).upper(): str(row[2]) for row in described}
        if found.get("ENABLED", "true").lower() != "true":
            raise CheckFailed(
                f"{name} is not enabled: ALTER STORAGE INTEGRATION {name} SET ENABLED = TRUE"
            )
        allowed = _locations(found, "STORAGE_ALLOWED_LOCATIONS")
        if not any(place == "*" or location.startswith(place) for place in allowed):
            raise CheckFailed(
                f"{name} allows {', '.join(allowed) or 'nothing'}, and not {location}: ALTER STORAGE "
                f"INTEGRATION {name} SET STORAGE_ALLOWED_LOCATIONS = ('{location}')"
            )
        blocked = [
            place
            for place in _locations(found, "STORAGE_BLOCKED_LOCATIONS")
            if location.startswith(place)
        ]
        if blocked:
            raise CheckFailed(
                f"{name} blocks {blocked[0]}: remove it from STORAGE_BLOCKED_LOCATIONS"
            )
        role = found.get("STORAGE_AWS_ROLE_ARN", "an unknown role")
        return f"{name} allows {location}, as {role}"

    def _export(self) -> str:
        """One row on the very way that datasets take."""
        integration, session = self._aws.storage_integration, self._session
        folder = f"datasets/{self._probe.lower()}"
        session.execute(
            f'create temporary table {_STAGED} as select 1 as "probe", \'train\' as "__split", '
            '0 as "__shard", 0 as "__order"'
        )
        try:
            session.export(_STAGED, ["probe"], self._storage, folder, 1)
            rows = sum(_rows(self._storage, key) for key in self._storage.list(folder))
        finally:
            self._storage.delete(folder)
            with suppress(WarehouseError):
                session.execute(f"drop table {_STAGED}")
        if rows != 1:
            raise CheckFailed(f"of one row, {rows} arrived in {self._storage.uri(folder)}")
        how = (
            f"Snowflake wrote it, with {integration}"
            if integration
            else "no storage integration is set, so rows are streamed through this machine"
        )
        return f"one row arrived in {self._storage.uri('datasets')}; {how}"


@contextmanager
def _or(remedy: str) -> Iterator[None]:
    """Adds to an error of the warehouse what to do about it."""
    try:
        yield
    except WarehouseError as error:
        raise CheckFailed(f"{error}\n{remedy}") from error


def _rows(storage: S3Storage, key: str) -> int:
    with open_parquet(storage, key) as file:
        return file.metadata.num_rows


def _locations(found: Mapping[str, str], name: str) -> list[str]:
    return [place.strip() for place in found.get(name, "").split(",") if place.strip()]
