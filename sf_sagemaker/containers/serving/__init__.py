"""What answers requests in a serving container: a model behind GET /ping and POST /invocations.

SageMaker's inference contract: the model lies in /opt/ml/model, the server listens on port 8080,
and ends within 30 seconds of SIGTERM; under a supervisor, requests have ANSWER_SECONDS to be answered
first. Needs the libraries of the model, and uvicorn.
"""

from pathlib import Path
from typing import Literal

from sf_sagemaker.containers import program_files

ProgramKind = Literal["xgboost", "llm"]

ENTRY_POINT = "serve.py"
INFERENCE_SCRIPT = "inference.py"

ANSWER_SECONDS = 60.0  # within which a request is to be answered, on SageMaker and here

# What a server says to its supervisor: that it accepts connections, or why it never will.
READY = "ready"
FAILED = "failed: "


def serving_files(kind: ProgramKind) -> tuple[str, dict[str, Path]]:
    """The entry point that serves a kind of model, and its files by their path in the code folder.

    They are laid out as those of the kind's training, whose modules load the model.
    """
    return _files(kind, ENTRY_POINT)


def inference_files(kind: ProgramKind) -> tuple[str, dict[str, Path]]:
    """As serving_files, for SageMaker's inference images, which bring a server of their own."""
    return _files(kind, INFERENCE_SCRIPT)


def _files(kind: ProgramKind, entry_point: str) -> tuple[str, dict[str, Path]]:
    training_entry_point, files = program_files(kind)
    here = Path(__file__).parent
    package = here.parents[1]
    modules = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path
        for path in sorted(here.glob("*.py"))
        if path.name not in (ENTRY_POINT, INFERENCE_SCRIPT)
    }
    loading = {name: path for name, path in files.items() if name != training_entry_point}
    return entry_point, {entry_point: here / entry_point, **loading, **modules}
