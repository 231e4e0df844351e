"""The service: statements that run on their own and can be watched, held, failed and cancelled.

Everything that fakesnow can do is fakesnow's. Added are: asynchronous statements with their status,
results and cancellation; unloading to S3; time travel, by reading the newest rows; statement
parameters; LAST_ALTERED; and the refusal of names in the wrong case, which DuckDB would forgive.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fakesnow.server
import sqlglot
import uvicorn
from fakesnow.arrow import to_ipc, to_sf
from fakesnow.instance import FakeSnow
from fakesnow.transforms import SERVER_VERSION
from sqlglot import Expr, exp
from sqlglot.errors import ParseError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import snowflake.connector
from snowflake.connector.errors import ProgrammingError
from standins.snowflake import catalog, unload
from standins.snowflake.temporary import TemporaryTables

INTEGRATION = "S3_DATASETS"
_CHUNK_ROWS = 50_000
_CANCELLED = (604, "57014", "SQL execution canceled")


@dataclass
class Statement:
    """A statement that a client sent. `status` is Snowflake's: RUNNING, SUCCESS, ABORTED …"""

    sql: str
    query_id: str
    parameters: Mapping[str, Any]
    asynchronous: bool
    session: int
    status: str = "RUNNING"
    response: dict[str, Any] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def tag(self) -> str | None:
        return self.parameters.get("QUERY_TAG")


@dataclass
class _Fault:
    pattern: re.Pattern[str]
    number: int
    message: str
    state: str
    times: int


class SnowflakeService:
    """Snowflake on 127.0.0.1, for as long as the block lasts; any process can connect to it.

    Unloads go where boto3 finds S3: AWS_ENDPOINT_URL and credentials as this process has them then.
    `integrations` maps names of storage integrations to the locations that they allow.
    """

    def __init__(
        self,
        *,
        database: str = "ANALYTICS",
        schema: str = "PUBLIC",
        integrations: Mapping[str, str] | None = None,
    ) -> None:
        self.database = database
        self.schema = schema
        self.integrations = dict(integrations or {INTEGRATION: "s3://"})
        self.statements: list[Statement] = []
        self.logins: list[Mapping[str, Any]] = []  # what clients sent to log in
        self.port = 0
        self._faults: list[_Fault] = []
        self._login_faults: list[tuple[int, str]] = []
        self._held: list[tuple[re.Pattern[str], threading.Event]] = []
        self._locks: dict[str, asyncio.Lock] = {}
        self._temporary: dict[str, TemporaryTables] = {}
        self._tokens: list[str] = []
        self._chunks: dict[str, tuple[Any, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connection_arguments(self) -> dict[str, Any]:
        """What snowflake.connector.connect needs to get here."""
        return {
            "user": "fake",
            "password": "snow",
            "account": "fakesnow",
            "host": "127.0.0.1",
            "port": self.port,
            "protocol": "http",
            "database": self.database,
            "schema": self.schema,
            "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False},
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which other processes, and dbt, get here."""
        return {
            "SNOWFLAKE_ACCOUNT": "fakesnow",
            "SNOWFLAKE_USER": "fake",
            "SNOWFLAKE_ROLE": "TRANSFORMER",
            "SNOWFLAKE_WAREHOUSE": "TRANSFORMING",
            "SNOWFLAKE_DATABASE": self.database,
            "SNOWFLAKE_SCHEMA": self.schema,
            "SNOWFLAKE_HOST": "127.0.0.1",
            "SNOWFLAKE_PORT": str(self.port),
            "SNOWFLAKE_PROTOCOL": "http",
        }

    @contextmanager
    def connect(self) -> Iterator[snowflake.connector.SnowflakeConnection]:
        """A connection through the real connector."""
        with snowflake.connector.connect(**self.connection_arguments) as connection:
            yield connection

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Runs statements as any client would; the rows of the last one."""
        with self.connect() as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    def fill(self, sql: str) -> None:
        """Runs a statement in DuckDB's own language, past everything: to make a large table."""
        with self._snow.duck_conn.cursor() as cursor:
            cursor.execute(sql)

    def fail(
        self, pattern: str, number: int, message: str, *, state: str = "42000", times: int = 1
    ) -> None:
        """Lets the next statements that match a pattern fail as Snowflake would."""
        compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        self._faults.append(_Fault(compiled, number, message, state, times))

    def refuse_login(self, number: int, message: str) -> None:
        """Refuses the next login."""
        self._login_faults.append((number, message))

    @contextmanager
    def hold(self, pattern: str) -> Iterator[None]:
        """Statements that match a pattern run until the block ends, or until they are cancelled."""
        held = (re.compile(pattern, re.IGNORECASE | re.DOTALL), threading.Event())
        self._held.append(held)
        try:
            yield
        finally:
            held[1].set()
            self._held.remove(held)

    def running(self, pattern: str) -> bool:
        """Whether a statement that matches a pattern runs now."""
        found = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        return any(it.status == "RUNNING" and found.search(it.sql) for it in self.statements)

    def __enter__(self) -> SnowflakeService:
        self._snow = FakeSnow()
        catalog.extend(self._snow.duck_conn)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = uvicorn.Config(
            self._application(), host="127.0.0.1", port=self.port, log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        for statement in self.statements:
            statement.cancelled.set()
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=10)
        for token in self._tokens:
            fakesnow.server.sessions.pop(token, None)
        self._snow.duck_conn.close()

    def _application(self) -> Starlette:
        routes = [
            Route("/session/v1/login-request", self._login, methods=["POST"]),
            Route("/session", self._session, methods=["POST"]),
            Route("/queries/v1/query-request", self._query, methods=["POST"]),
            Route("/queries/{query}/result", self._result, methods=["GET"]),
            Route("/chunks/{query}/{number:int}", self._chunk, methods=["GET"]),
            Route("/queries/{query}/abort-request", self._abort, methods=["POST"]),
            Route("/monitoring/queries/{query}", self._status, methods=["GET"]),
        ]
        taken = {route.path for route in routes} | {"/monitoring/queries/{sfqid}"}
        others = [route for route in fakesnow.server.routes if route.path not in taken]
        return Starlette(routes=[*routes, *others])

    async def _login(self, request: Request) -> JSONResponse:
        self.logins.append((await _body(request))["data"])
        if self._login_faults:
            number, message = self._login_faults.pop(0)
            return JSONResponse(
                {"data": {}, "code": str(number), "message": message, "success": False}
            )
        parameters = request.query_params
        database = parameters.get("databaseName")
        connection = await run_in_threadpool(
            self._snow.connect, database, parameters.get("schemaName")
        )
        if database:
            catalog.extend_database(self._snow.duck_conn, database.upper())
        token = secrets.token_urlsafe(32)
        self._tokens.append(token)
        self._temporary[token] = TemporaryTables()
        fakesnow.server.sessions[token] = connection
        return JSONResponse(
            {
                "data": {
                    "token": token,
                    "masterToken": token,
                    "sessionId": len(self._tokens),
                    "serverVersion": SERVER_VERSION,
                    "parameters": [
                        {"name": "AUTOCOMMIT", "value": True},
                        {"name": "TIMEZONE", "value": "Etc/UTC"},
                        {"name": "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY", "value": 3600},
                        {"name": "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD", "value": 0},
                    ],
                    "sessionInfo": {
                        "databaseName": database,
                        "schemaName": parameters.get("schemaName"),
                    },
                },
                "success": True,
            }
        )

    async def _session(self, request: Request) -> JSONResponse:
        token = fakesnow.server.to_token(request)
        if request.query_params.get("delete") and token in self._temporary:
            with self._snow.duck_conn.cursor() as cursor:
                await run_in_threadpool(self._temporary.pop(token).drop, cursor)
        return await fakesnow.server.session(request)

    async def _query(self, request: Request) -> Response:
        body = await _body(request)
        statement = Statement(
            sql=body["sqlText"],
            query_id=str(uuid.uuid4()),
            parameters=body.get("parameters") or {},
            asynchronous=bool(body.get("asyncExec")),
            session=self._session_id(fakesnow.server.to_token(request)),
        )
        if body.get("describeOnly"):
            await self._run(request, body, statement)
            return JSONResponse(statement.response)
        self.statements.append(statement)
        if not statement.asynchronous:
            await self._run(request, body, statement)
            return JSONResponse(statement.response)
        task = asyncio.create_task(self._run(request, {**body, "asyncExec": False}, statement))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return JSONResponse(
            {
                "data": {
                    "queryId": statement.query_id,
                    "getResultUrl": f"/queries/{statement.query_id}/result",
                    "queryAbortsAfterSecs": 300,
                    "progressDesc": None,
                },
                "code": "333334",
                "message": None,
                "success": True,
            }
        )

    async def _run(self, request: Request, body: dict[str, Any], statement: Statement) -> None:
        """Runs a statement to its end, whatever that is."""
        token = fakesnow.server.to_token(request)
        try:
            if cancelled := _cancelled_by(statement.sql):
                await self._cancel(*cancelled)
                body = {**body, "sqlText": "select 'query terminated.' as status"}
                statement.response = await _fakesnow(request, body)
            else:
                async with self._locks.setdefault(token, asyncio.Lock()):
                    await self._wait_while_held(statement)
                    self._raise_fault(statement)
                    statement.response = await self._execute(request, body, statement, token)
        except ProgrammingError as error:
            number = int(error.errno or 0)
            statement.response = {
                "data": {"errorCode": f"{number:06d}", "sqlState": error.sqlstate},
                "code": f"{number:06d}",
                "message": error.raw_msg,
                "success": False,
            }
        finally:
            if statement.response is None:  # a defect of the stand-in: its clients must not wait
                statement.response = {
                    "data": {}, "code": "099999", "message": "the stand-in failed", "success": False
                }  # fmt: skip
                statement.status = "FAILED_WITH_ERROR"
        response = statement.response
        if response["success"]:
            statement.status = "SUCCESS"
            data = response["data"]
            cache = self._snow.results_cache
            if data.get("queryId") in cache:
                cache[statement.query_id] = cache[data["queryId"]]
                data["queryId"] = statement.query_id
        else:
            aborted = response.get("code") == f"{_CANCELLED[0]:06d}"
            statement.status = "ABORTED" if aborted else "FAILED_WITH_ERROR"

    async def _execute(
        self, request: Request, body: dict[str, Any], statement: Statement, token: str
    ) -> dict[str, Any]:
        connection = fakesnow.server.to_conn(token)
        try:
            parsed = sqlglot.parse_one(statement.sql, read="snowflake")
        except ParseError:
            return await _fakesnow(request, body)  # which says so as Snowflake does
        temporary = self._temporary[token]
        rewritten = temporary.rewrite(connection, parsed)
        await run_in_threadpool(catalog.check_names, connection, parsed)
        if isinstance(parsed, exp.Copy) and unload.is_unload(parsed):
            rows = await run_in_threadpool(
                unload.run, connection, parsed, statement, self.integrations
            )
            return await _fakesnow(request, {**body, "sqlText": f"select {rows} as rows_unloaded"})
        if _leave_out_what_fakesnow_lacks(parsed) or rewritten:
            sql = parsed.sql(dialect="snowflake")
            body = {**body, "sqlText": temporary.in_stage(sql)}
        elif isinstance(parsed, exp.Put | exp.Command):
            body = {**body, "sqlText": temporary.in_stage(body["sqlText"])}
        if (
            isinstance(parsed, exp.Query)
            and not body.get("describeOnly")
            and not body.get("bindings")
        ):
            cursor = connection.cursor()
            await run_in_threadpool(cursor.execute, body["sqlText"])
            return await self._in_chunks(request, body, str(cursor.sfqid))
        response = await _fakesnow(request, body)
        if response["success"] and not body.get("describeOnly"):
            await run_in_threadpool(catalog.record_change, connection, parsed)
        return response

    async def _in_chunks(
        self, request: Request, body: Mapping[str, Any], query: str
    ) -> dict[str, Any]:
        """A result as Snowflake gives it: its first rows, and addresses of the others."""
        cache = self._snow.results_cache
        if query not in cache:
            return await _fakesnow(request, body)
        table, *others = cache[query]
        first = str(uuid.uuid4())
        cache[first] = (table.slice(0, _CHUNK_ROWS), *others)
        sql = f"select * from table(result_scan('{first}'))"
        response = await _fakesnow(request, {**body, "sqlText": sql})
        del cache[first]
        data = response["data"]
        data["queryId"], data["total"] = query, table.num_rows
        starts = range(_CHUNK_ROWS, table.num_rows, _CHUNK_ROWS)
        if starts:
            self._chunks[query] = (table, data["rowtype"])
            data["chunks"] = [
                {
                    "url": f"http://127.0.0.1:{self.port}/chunks/{query}/{number}",
                    "rowCount": min(_CHUNK_ROWS, table.num_rows - start),
                    "uncompressedSize": table.nbytes * _CHUNK_ROWS // table.num_rows,
                    "compressedSize": table.nbytes * _CHUNK_ROWS // table.num_rows,
                }
                for number, start in enumerate(starts, start=1)
            ]
            data["chunkHeaders"] = {}
        return response

    async def _chunk(self, request: Request) -> Response:
        table, rowtype = self._chunks[request.path_params["query"]]
        part = table.slice(request.path_params["number"] * _CHUNK_ROWS, _CHUNK_ROWS)
        content = await run_in_threadpool(lambda: bytes(to_ipc(to_sf(part, rowtype))))
        return Response(content)

    async def _wait_while_held(self, statement: Statement) -> None:
        held = [event for pattern, event in self._held if pattern.search(statement.sql)]
        while held and not all(event.is_set() for event in held):
            if statement.cancelled.is_set():
                break
            await asyncio.sleep(0.01)
        if statement.cancelled.is_set():
            number, state, message = _CANCELLED
            raise ProgrammingError(message, errno=number, sqlstate=state)

    def _raise_fault(self, statement: Statement) -> None:
        for fault in self._faults:
            if fault.times and fault.pattern.search(statement.sql):
                fault.times -= 1
                raise ProgrammingError(fault.message, errno=fault.number, sqlstate=fault.state)

    async def _cancel(self, query: str | None, session: int | None) -> None:
        for statement in self.statements:
            asked_for = query == statement.query_id or session == statement.session
            if statement.status == "RUNNING" and asked_for:
                statement.cancelled.set()

    def _session_id(self, token: str) -> int:
        return self._tokens.index(token) + 1 if token in self._tokens else 0

    def _found(self, request: Request) -> Statement | None:
        query = request.path_params["query"]
        return next((it for it in self.statements if it.query_id == query), None)

    async def _status(self, request: Request) -> JSONResponse:
        statement = self._found(request)
        if statement is None:
            return JSONResponse({"data": {"queries": []}, "success": True})
        query: dict[str, Any] = {"id": statement.query_id, "status": statement.status}
        if statement.status not in ("RUNNING", "SUCCESS") and statement.response:
            query["errorCode"] = statement.response["code"]
            query["errorMessage"] = statement.response["message"]
        return JSONResponse({"data": {"queries": [query]}, "success": True})

    async def _result(self, request: Request) -> JSONResponse:
        statement = self._found(request)
        while statement and statement.response is None:
            await asyncio.sleep(0.01)
        return JSONResponse(statement.response if statement else {"success": False, "data": {}})

    async def _abort(self, request: Request) -> JSONResponse:
        await self._cancel(request.path_params["query"], None)
        return JSONResponse({"success": True})


async def _body(request: Request) -> dict[str, Any]:
    content = await request.body()
    if request.headers.get("Content-Encoding") == "gzip":
        content = gzip.decompress(content)
    return json.loads(content)


async def _fakesnow(request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
    """What fakesnow's own server answers to a request with this body."""
    content = json.dumps(body).encode()
    headers = [it for it in request.scope["headers"] if it[0] != b"content-encoding"]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    forwarded = Request({**request.scope, "headers": headers}, receive)
    response = await fakesnow.server.query_request(forwarded)
    answer = json.loads(bytes(response.body))
    if response.status_code != 200:
        raise ProgrammingError(
            f"the stand-in can't do this: {answer.get('message')}", errno=99999, sqlstate="0A000"
        )
    return answer


def _cancelled_by(sql: str) -> tuple[str | None, int | None] | None:
    """(query, session) that a statement cancels; None where it cancels nothing."""
    match = re.search(r"system\$cancel_query\('([^']+)'\)", sql, re.IGNORECASE)
    if match:
        return match[1], None
    match = re.search(r"system\$cancel_all_queries\((\d+)\)", sql, re.IGNORECASE)
    return (None, int(match[1])) if match else None


def _leave_out_what_fakesnow_lacks(parsed: Expr) -> bool:
    """Takes out time travel, and options of COPY that DuckDB needs no telling of."""
    changed = False
    for table in parsed.find_all(exp.Table):
        if table.args.get("when"):
            table.set("when", None)
            changed = True
    if isinstance(parsed, exp.Copy):
        for option in list(parsed.find_all(exp.Property)):
            if option.name.lower() == "use_logical_type":
                option.pop()
                changed = True
    return changed
