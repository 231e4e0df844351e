"""A stand-in for Snowflake: fakesnow's server, and what the project needs beyond it.

It is DuckDB underneath. It proves that the client's code, its statements and the real connector and
dbt adapter fit together; it doesn't prove that Snowflake computes the same.
"""

from standins.snowflake.service import SnowflakeService, Statement

__all__ = ["SnowflakeService", "Statement"]
