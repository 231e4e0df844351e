"""The file of a model card, whatever the kind of model: what it is, and that it still works."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.errors import ContainerError

CARD_VERSION = 1
CARD_FILE = "model-card.json"


class InvalidModelCard(ContainerError):
    """A model card that is missing, unreadable, or of another version."""


def write_card(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes a card into a model's folder. Numbers that JSON doesn't have become null."""
    finite = _finite({"version": CARD_VERSION, **content})
    (folder / CARD_FILE).write_text(json.dumps(finite, indent=1, allow_nan=False) + "\n")


def read_card(folder: Path) -> dict[str, Any]:
    """The content of the card in a model's folder. Raises InvalidModelCard."""
    path = folder / CARD_FILE
    try:
        content = json.loads(path.read_text())
        version = content.pop("version")
    except FileNotFoundError:
        raise InvalidModelCard(f"{path} is missing: {folder} is not a model's folder") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise InvalidModelCard(f"{path} is not a model card: {error}") from error
    if version != CARD_VERSION:
        raise InvalidModelCard(
            f"{path} is of version {version!r}, and this code reads {CARD_VERSION}: "
            "use the code that trained the model, or train it again"
        )
    return content


def _finite(value: Any) -> Any:
    """The value with null for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
