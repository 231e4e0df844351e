"""The stand-in for Snowflake with what an account says of itself: session, integrations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from standins.snowflake.service import SnowflakeService, Statement


@dataclass
class Integration:
    """A storage integration as DESC INTEGRATION shows it."""

    allowed: str
    blocked: str = ""
    enabled: bool = True

    def rows(self) -> Mapping[str, str]:
        return {
            "ENABLED": str(self.enabled).lower(),
            "STORAGE_PROVIDER": "S3",
            "STORAGE_ALLOWED_LOCATIONS": self.allowed,
            "STORAGE_BLOCKED_LOCATIONS": self.blocked,
            "STORAGE_AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/snowflake",
            "STORAGE_AWS_EXTERNAL_ID": "EXTERNAL_ID",
        }


class SnowflakeAccount(SnowflakeService):
    """`says` maps queries to the SQL of their answers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.says = {
            "select current_role()": "select 'TRANSFORMER'",
            "select current_warehouse()": "select 'TRANSFORMING'",
        }

    def describe(self, name: str, integration: Integration) -> None:
        """Lets the account have a storage integration."""
        rows = [
            f"select '{key}', 'String', '{value}', ''" for key, value in integration.rows().items()
        ]
        self.says[f"describe integration {name}"] = " union all ".join(rows)

    async def _execute(
        self, request: Request, body: dict[str, Any], statement: Statement, token: str
    ) -> dict[str, Any]:
        asked = re.sub(r"\s+", " ", statement.sql).strip().lower()
        answer = {query.lower(): sql for query, sql in self.says.items()}.get(asked)
        if answer is not None:
            statement.sql = answer
            body = {**body, "sqlText": answer}
        return await super()._execute(request, body, statement, token)
