"""Asking for data: sampling SQL, export to Parquet behind a manifest, landing; one file a warehouse."""
