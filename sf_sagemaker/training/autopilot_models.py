"""The base models that Autopilot's documentation lists for fine-tuning, and what it says of them.

https://docs.aws.amazon.com/sagemaker/latest/dg/autopilot-llms-finetuning-data-format.html. The list
grows: a name that isn't on it may be right.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_BASE_MODEL = "Falcon7BInstruct"  # TextGenerationJobConfig, SageMaker API reference


@dataclass(frozen=True)
class BaseModel:
    """`rows` are of training and validation together; `context` is in tokens, of each cell.

    A model with an `eula` has terms of use that whoever trains it must have accepted.
    """

    rows: int
    context: int
    eula: bool = False


BASE_MODELS: Mapping[str, BaseModel] = {
    "Dolly3B": BaseModel(10_000, 1024),
    "Dolly7B": BaseModel(10_000, 1024),
    "Dolly12B": BaseModel(10_000, 1024),
    "Falcon7B": BaseModel(1_000, 1024),
    "Falcon7BInstruct": BaseModel(1_000, 1024),
    "Falcon40B": BaseModel(10_000, 1024),
    "Falcon40BInstruct": BaseModel(10_000, 1024),
    "FlanT5L": BaseModel(10_000, 1024),
    "FlanT5XL": BaseModel(10_000, 1024),
    "FlanT5XXL": BaseModel(10_000, 1024),
    "Llama2-7B": BaseModel(10_000, 2048, eula=True),
    "Llama2-7BChat": BaseModel(10_000, 2048, eula=True),
    "Llama2-13B": BaseModel(7_000, 2048, eula=True),
    "Llama2-13BChat": BaseModel(7_000, 2048, eula=True),
    "Mistral7B": BaseModel(10_000, 2048),
    "Mistral7BInstruct": BaseModel(10_000, 2048),
    "MPT7B": BaseModel(10_000, 1024),
    "MPT7BInstruct": BaseModel(10_000, 1024),
}


def needs_eula(name: str) -> bool:
    """Whether a base model is known to have terms of use: those of Meta do, also the newer ones."""
    known = BASE_MODELS.get(name)
    return known.eula if known is not None else name.lower().startswith(("llama", "meta-"))
