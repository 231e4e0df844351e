"""dbt models in, fresh models out: training on warehouse data as Dagster assets.

The rooms, and which may import which, are described in docs/architecture.md.
"""
