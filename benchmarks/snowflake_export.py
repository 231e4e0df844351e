"""Streaming rows out of Snowflake: this project's export against `pd.read_sql` of the same query.

Both use the real connector, against the stand-in for Snowflake on this machine, which hands out
results in parts of 50,000 rows as Snowflake does; both end in Parquet in a local folder. The time of
the query itself is in both. Figures are ratios of processes side by side: nothing here says what a
real account or its network give.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, measured

_COLUMNS = ["row_id", *(f"feature_{i}" for i in range(8)), "name"]


def streamed(arguments: dict[str, object], folder: Path) -> None:
    import snowflake.connector

    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse

    warehouse = SnowflakeWarehouse(lambda: snowflake.connector.connect(**arguments))
    with warehouse.reading() as session:
        columns = [name.upper() for name in _COLUMNS]
        session.export("BENCH", columns, LocalStorage(folder), "dataset", shards=1)


def read_sql(arguments: dict[str, object], folder: Path) -> None:
    import pandas as pd
    import snowflake.connector

    with snowflake.connector.connect(**arguments) as connection:
        names = ", ".join(_COLUMNS)
        query = f'select {names}, "__split" from BENCH order by "__split", "__shard", "__order"'
        rows = pd.read_sql(query, connection)  # pyright: ignore[reportArgumentType]
    for split, part in rows.groupby("__split"):
        part.to_parquet(folder / f"{split}.parquet")


def serve(rows: int) -> None:
    """Serves a table of rows until standard input ends; prints how to connect."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from standins.snowflake import SnowflakeService

    with SnowflakeService() as service:
        features = ", ".join(f"cast(i as double) / {7 + n} as FEATURE_{n}" for n in range(8))
        with service.connect():
            pass  # makes the database
        service.fill(
            f"create table ANALYTICS.PUBLIC.BENCH as select i as ROW_ID, {features}, "
            "'name ' || (i % 1000) as NAME, case when i % 10 = 0 then 'test' when i % 10 = 1 then "
            "'validation' else 'train' end as \"__split\", cast(0 as bigint) as \"__shard\", "
            f'md5(cast(i as varchar)) as "__order" from range({rows}) as r(i)'
        )
        print(json.dumps(service.connection_arguments), flush=True)
        sys.stdin.read()


def compare(rows: int) -> dict[str, Cost]:
    import subprocess

    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.snowflake_export", "--serve", str(rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        arguments = server.stdout.readline()
        costs: dict[str, Cost] = {}
        for way in ("streamed", "read_sql"):
            with tempfile.TemporaryDirectory() as folder:
                costs[way] = measured(
                    ["-m", "benchmarks.snowflake_export", "--way", way, "--folder", folder],
                    SNOWFLAKE_ARGUMENTS=arguments,
                )
        return costs
    finally:
        server.stdin.close()
        server.wait()


def main() -> None:
    import os

    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--serve", type=int)
    parser.add_argument("--way", choices=("streamed", "read_sql"))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.way:
        arguments = json.loads(os.environ["SNOWFLAKE_ARGUMENTS"])
        (streamed if options.way == "streamed" else read_sql)(arguments, options.folder)
    else:
        for rows in options.rows:
            costs = compare(rows)
            ours, theirs = costs["streamed"], costs["read_sql"]
            for way, cost in costs.items():
                print(
                    f"{rows:>10,} rows  {way:<9} {rows / cost.wall_seconds:>10,.0f} rows/s  "
                    f"{cost.peak_mb:>7,.0f} MB"
                )
            print(
                f"{rows:>10,} rows  streaming is {theirs.wall_seconds / ours.wall_seconds:.1f} times as "
                f"fast, in {ours.peak_mb / theirs.peak_mb:.2f} of the memory"
            )


if __name__ == "__main__":
    main()
