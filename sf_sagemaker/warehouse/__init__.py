"""Asking for data: sampling, export to Parquet behind a manifest, landing; one file a warehouse."""
