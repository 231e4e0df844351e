"""The repository as one gets it: pinned versions, commands, what Dagster finds in it, house rules."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from locations import REPOSITORY
from sf_sagemaker import components

PINS = (REPOSITORY / "constraints.txt").read_text().splitlines()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMPONENTS = ("DbtModels", "FineTunedLLM", "LandedTable", "XGBoostModel")


def dependencies() -> list[str]:
    """What pyproject.toml asks for, extras included."""
    extras = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *extras["llm"], *extras["dev"]]


def test_the_constraints_are_names_and_versions_and_nothing_else() -> None:
    assert len(PINS) > 100
    for line in PINS:
        # no URL, path, option, comment, extra, or local version such as +cpu
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [^;]+)?", line), line
        name = Requirement(line).name
        # what only a CUDA build of torch needs: torch itself pins it
        assert not re.match(r"nvidia-|cuda-|triton$", name), line


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_one_version_of_each_package_is_meant_for_each_python(python: str) -> None:
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    pinned: dict[str, Version] = {}
    for requirement in map(Requirement, PINS):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in pinned, requirement.name
            [specifier] = requirement.specifier
            pinned[requirement.name] = Version(specifier.version)
    for requirement in map(Requirement, dependencies()):
        name = canonicalize_name(requirement.name)
        if name == "sf-sagemaker":
            continue  # one extra of the project in another
        assert name in pinned, f"{requirement} is not pinned for Python {python}"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: {pinned[name]}"


def run(
    command: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command, without what a surrounding `make` says to its own children."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        [command, *arguments],
        cwd=folder,
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_dagster(command: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs `dagster` or `dg` in the repository, over a deployment of its own."""
    (home / "dagster").mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home / "dagster")
    return run(
        str(Path(sys.executable).with_name(command)),
        *arguments,
        folder=REPOSITORY,
        environment={
            "DAGSTER_HOME": str(home / "dagster"),
            "SF_SAGEMAKER_HOME": str(home / "deployment"),
            "VIRTUAL_ENV": str(Path(sys.executable).parent.parent),
        },
    )


@pytest.mark.slow
def test_dagster_finds_the_code_location(tmp_path: Path) -> None:
    validated = run_dagster(
        "dagster", "definitions", "validate", "-w", "workspace.yaml", home=tmp_path
    )
    said = validated.stdout + validated.stderr
    assert validated.returncode == 0, said
    assert "Validation successful for code location sf_sagemaker" in said
    assert not (tmp_path / "deployment").exists()  # finding out what there is makes nothing


@pytest.mark.slow
def test_dg_lists_the_components(tmp_path: Path) -> None:
    listed = run_dagster("dg", "list", "components", "--json", home=tmp_path)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    summaries = {item["key"]: item["summary"] for item in json.loads(listed.stdout)["items"]}
    for name in COMPONENTS:
        assert summaries[f"sf_sagemaker.components.{name}"]


@pytest.mark.slow
def test_dg_prints_the_schema_of_a_component(tmp_path: Path) -> None:
    name = "sf_sagemaker.components.FineTunedLLM"
    shown = run_dagster(
        "dg", "utils", "inspect-component", name, "--defs-yaml-json-schema", home=tmp_path
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    attributes = json.loads(shown.stdout)["properties"]["attributes"]
    assert attributes == components.FineTunedLLM.model().model_json_schema()


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_attribute_of_a_component_is_described(name: str) -> None:
    schema = getattr(components, name).model().model_json_schema()
    described = dict(properties_of(schema, name))
    assert len(described) >= 4
    assert not [path for path, description in described.items() if not description]


def properties_of(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The properties of a JSON schema and of the models that it defines, with their descriptions."""
    for name, value in schema.get("properties", {}).items():
        yield f"{path}.{name}", value.get("description", "")
    for name, definition in schema.get("$defs", {}).items():
        yield from properties_of(definition, name)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile alone."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    return tmp_path


def make(folder: Path, target: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    made = run("make", "--silent", target, folder=folder)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def test_make_help_lists_the_commands(checkout: Path) -> None:
    lines = make(checkout, "help").splitlines()
    listed = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in lines}
    [phony] = re.findall(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert set(listed) == set(phony.split())
    assert {"install", "demo", "dev", "test", "lint", "clean"} <= set(listed)
    assert [path.name for path in checkout.iterdir()] == ["Makefile"]


def test_make_clean_removes_what_the_commands_make_and_nothing_else(checkout: Path) -> None:
    kept = {
        "README.md",
        ".git/config",
        "data/sales.parquet",
        "dbt_project/models/features.sql",
        "sf_sagemaker/definitions.py",
        "sf_sagemaker/variables/var.py",
        "tests/target/logs.py",
    }
    made = {
        ".venv/bin/python",
        "var/warehouse.duckdb",
        "dbt_project/target/manifest.json",
        "dbt_project/logs/dbt.log",
        ".pytest_cache/README.md",
        ".ruff_cache/0/1",
        ".hypothesis/examples/1",
        "sf_sagemaker.egg-info/PKG-INFO",
        "sf_sagemaker/__pycache__/definitions.cpython-311.pyc",
        "tests/containers/llm/__pycache__/conftest.cpython-311.pyc",
    }
    for name in kept | made:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("content")
    make(checkout, "clean")
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert left == kept | {"Makefile"}
    make(checkout, "clean")  # nothing to remove is no error


def test_make_clean_removes_what_git_ignores(checkout: Path) -> None:
    ignored = [
        line.rstrip("/").replace("*", "sf_sagemaker")
        for line in (REPOSITORY / ".gitignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(ignored) > 5
    for name in ignored:
        (checkout / name).mkdir(parents=True, exist_ok=True)
        (checkout / name / "file").write_text("content")
    make(checkout, "clean")
    assert [name for name in ignored if (checkout / name).exists()] == []


def test_no_file_names_the_folder_of_this_checkout() -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listed = run("git", "ls-files", "-z", folder=REPOSITORY)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    assert REPOSITORY / "pyproject.toml" in files
    here = re.compile(rb"(?<![\w.])" + re.escape(str(REPOSITORY).encode()) + rb"(?![\w-])")
    assert [path for path in files if path.is_file() and here.search(path.read_bytes())] == []


def test_the_package_uses_no_private_dagster_no_pickle_and_no_catch_all() -> None:
    modules = list((REPOSITORY / "sf_sagemaker").rglob("*.py"))
    assert len(modules) > 20
    assert [
        f"{module.relative_to(REPOSITORY)} {found}"
        for module in modules
        for node in ast.walk(ast.parse(module.read_text()))
        for found in forbidden(node)
    ] == []


def forbidden(node: ast.AST) -> Iterator[str]:
    """What a syntax node does that the package must not do."""
    for name in imported_by(node):
        first, *rest = name.split(".")
        if first.startswith("dagster") and any(part.startswith("_") for part in rest):
            yield f"line {node.lineno}: imports {name}"  # pyright: ignore[reportAttributeAccessIssue]
        if {"pickle", "cloudpickle", "dill", "shelve", "joblib"} & set(name.split(".")):
            yield f"line {node.lineno}: imports {name}"  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle"):
        yield f"line {node.lineno}: {node.attr}"
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        yield f"line {node.lineno}: {node.arg}"
    if isinstance(node, ast.ExceptHandler):
        caught = {n.id for n in ast.walk(node.type or ast.Pass()) if isinstance(n, ast.Name)}
        if node.type is None or {"Exception", "BaseException"} & caught:
            yield f"line {node.lineno}: catches everything"


def imported_by(node: ast.AST) -> list[str]:
    """Full names of what an import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


@pytest.mark.parametrize(
    "statement",
    [
        "import dagster._core",
        "from dagster._core.events import DagsterEvent",
        "from dagster import _check",
        "import pickle",
        "from joblib import load",
        "frame.to_pickle(path)",
        "numpy.load(path, allow_pickle=True)",
        "try: pass\nexcept: pass",
        "try: pass\nexcept Exception: pass",
        "try: pass\nexcept (ValueError, BaseException) as error: pass",
    ],
)
def test_what_is_forbidden_is_found(statement: str) -> None:
    assert [found for node in ast.walk(ast.parse(statement)) for found in forbidden(node)]


@pytest.mark.parametrize(("name", "folder"), [("local", "dagster"), ("aws", "dagster-aws")])
def test_each_deployment_has_dagsters_state_to_itself(name: str, folder: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shown = run(
        "make", "--dry-run", "--print-data-base", "help",
        folder=REPOSITORY, environment={"SF_SAGEMAKER_DEPLOYMENT": name},
    )  # fmt: skip
    assert f"DAGSTER_HOME := {REPOSITORY}/var/{folder}" in shown.stdout.splitlines()
