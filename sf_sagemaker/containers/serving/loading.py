"""Loading a model to serve it: whatever its kind, and only where it answers its golden rows as it should."""

import os
from pathlib import Path

from sf_sagemaker.containers.errors import GoldenRowMismatch
from sf_sagemaker.containers.serving.application import Handler
from sf_sagemaker.containers.serving.golden import golden_request, is_language_model
from sf_sagemaker.containers.serving.requests import JSON, RequestRefused

_BATCH = "SAGEMAKER_BATCH"  # SageMaker's own: "true" in the containers of batch transform jobs


def load(model: Path) -> Handler:
    """The model in a folder, which has just answered its golden rows as its card says.

    In a batch transform job it takes categories that the model doesn't know as missing.

    Raises ContainerError, GoldenRowMismatch among others.
    """
    handler = _load(model, batch=os.environ.get(_BATCH) == "true")
    golden = golden_request(model)
    if golden is not None:
        try:
            answer, _ = handler.answer(golden.body, JSON, JSON)
        except RequestRefused as error:
            raise GoldenRowMismatch(
                f"the model in {model} refuses its golden rows: {error}. Its card and its code don't "
                "belong together: train the model again"
            ) from error
        difference = golden.difference(answer)
        if difference is not None:
            raise GoldenRowMismatch(
                f"the model in {model} doesn't answer as its card says: {difference}. Fetch the "
                "artifact again, or train the model again"
            )
    return handler


def _load(model: Path, *, batch: bool) -> Handler:
    if is_language_model(model):
        return _load_language_model(model, batch=batch)
    from sf_sagemaker.containers.serving.xgboost_handler import XGBoostHandler
    from sf_sagemaker.containers.xgboost.model import load_model

    return XGBoostHandler(load_model(model), batch=batch)


def _load_language_model(model: Path, *, batch: bool) -> Handler:
    from sf_sagemaker.containers.llm.base_model import is_local
    from sf_sagemaker.containers.llm.libraries import explain_missing_libraries
    from sf_sagemaker.containers.llm.model_card import ModelCard

    if is_local(ModelCard.read(model).base_model["name"]):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported
    with explain_missing_libraries():
        from sf_sagemaker.containers.llm.model import load_model
        from sf_sagemaker.containers.serving.llm_handler import LanguageModelHandler
    return LanguageModelHandler(load_model(model), batch=batch)
