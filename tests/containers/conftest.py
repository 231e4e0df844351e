"""Containers, the code that runs in them, and rows of real house sales."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from containers.training_container import Container, Tables
from sf_sagemaker.containers import program_files

HOUSE_SALES = Path(__file__).parents[2] / "data" / "king_county_house_sales.parquet"


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A code folder that holds the program's files and nothing else."""
    folder = tmp_path_factory.mktemp("code")
    _, files = program_files("xgboost")
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def container(tmp_path: Path, code: Path) -> Iterator[Container]:
    """A container of one host; set `hosts` for more."""
    made = Container(tmp_path / "job", code)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def houses() -> Tables:
    """Four thousand real house sales, zip code as a category, some sizes missing."""
    table = pq.read_table(HOUSE_SALES)
    chosen = table.select(
        ["price", "bedrooms", "sqft_living", "grade", "lat", "long", "waterfront", "zipcode"]
    )
    chosen = chosen.slice(3000, 4000)
    sizes = pa.array(
        [
            None if row % 50 == 0 else size
            for row, size in enumerate(chosen["sqft_living"].to_pylist())
        ]
    )
    zipcodes = chosen["zipcode"].cast(pa.string())
    chosen = chosen.set_column(2, "sqft_living", sizes).set_column(7, "zipcode", zipcodes)
    return {
        "train": [chosen.slice(0, 1600), chosen.slice(1600, 1600)],
        "validation": [chosen.slice(3200, 400)],
        "test": [chosen.slice(3600, 400)],
    }
