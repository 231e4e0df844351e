"""Loading the code location against importing dagster and dagster_dbt alone. CPU seconds.

Both find their modules compiled, as each process after the first does, whether or not this
environment lets Python keep compiled modules.
"""

from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import measured

_REPEATS = 5


def main() -> None:
    """Prints both, and their ratio."""
    imports = "import dagster, dagster_dbt"
    load = "from sf_sagemaker.definitions import defs; defs()"
    costs: dict[str, list[float]] = {imports: [], load: []}
    with TemporaryDirectory() as compiled:
        environment = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        measured(["-c", load], **environment)  # compiles; dbt parses its project
        for _ in range(_REPEATS):
            for code, seconds in costs.items():
                seconds.append(measured(["-c", code], **environment).cpu_seconds)
    base, ours = (median(seconds) for seconds in costs.values())
    print(f"| {imports} | {base:.2f} CPU s |")
    print(f"| loading the code location | {ours:.2f} CPU s |")
    print(f"| ratio | {ours / base:.2f} |")


if __name__ == "__main__":
    main()
