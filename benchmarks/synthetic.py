"""Synthetic rows for benchmarks: as many as wanted, seeded, with a knob for drift."""

from pathlib import Path

FEATURES = 20
START = "2024-01-01"
DAYS = 28  # four weeks


def write_rows(warehouse: Path, rows: int, *, seed: int = 1, drift: float = 0.0) -> None:
    """Makes the table bench.rows in a DuckDB file.

    Columns: row_id, day (four weeks from START), f00 … f19 (double, every hundredth of f19
    missing) and y, a noisy nonlinear function of some of them. `drift` is how much y rises from the
    first day to the last, in standard deviations of its noise. The same arguments give the same
    rows: values are hashes of row number, column and seed.
    """
    import duckdb

    def uniform(salt: str) -> str:
        return f"(hash(row_id, '{salt}', {seed}) % 1000003) / 1000003.0"

    columns = [f"{uniform(f'f{n:02}')} as f{n:02}" for n in range(FEATURES - 1)]
    columns.append(f"case when row_id % 100 = 0 then null else {uniform('f19')} end as f19")
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("create schema if not exists bench")
        connection.execute(f"""
            create or replace table bench.rows as
            with numbered as (
                select
                    row_id,
                    cast(date '{START}' + cast(row_id % {DAYS} as integer) as date) as day,
                    {", ".join(columns)},
                    {uniform("noise")} + {uniform("more")} - 1 as noise
                from range({rows}) as numbers(row_id)
            )
            select
                * exclude (noise),
                3 * f00 + 2 * sin(6 * f01) + f02 * f03 + coalesce(f19, 0) + noise
                    + {drift} * 0.41 * (row_id % {DAYS}) / {DAYS} as y
            from numbered
        """)
