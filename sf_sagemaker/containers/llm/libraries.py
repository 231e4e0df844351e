"""The libraries of language models, which a small installation does without."""

from collections.abc import Iterator
from contextlib import contextmanager

from sf_sagemaker.containers.errors import ContainerError

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "accelerate", "gguf")


class LibrariesMissing(ContainerError):
    """An installation without what language models need."""


@contextmanager
def explain_missing_libraries() -> Iterator[None]:
    """Around an import of torch and its family: says how to install what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in LIBRARIES:
            raise
        raise LibrariesMissing(
            f"{missing} is not installed, and language models need {', '.join(LIBRARIES)}: install "
            "them with `make install` (without LLM=0) or `pip install 'sf_sagemaker[llm]'`, or use "
            "an image that has them"
        ) from error
