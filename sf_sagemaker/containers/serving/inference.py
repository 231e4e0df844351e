"""The script that SageMaker's own inference images call: code/inference.py in the archive of a model.

The XGBoost image (sagemaker-containers) calls `model_fn(folder)` at the first request, pings included, and
fails the ping where that raises. `transform_fn` answers with a response of Flask's.
The Hugging Face image (sagemaker-huggingface-inference-toolkit) hands on the context of
multi-model-server, which takes status and headers. That server answers pings whatever its model
does, so it is ended where the model can't be loaded: then the container fails its health check.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.serving.application import VERSION_HEADER, Handler
from sf_sagemaker.containers.serving.loading import load
from sf_sagemaker.containers.serving.requests import JSON, RequestRefused

_MULTI_MODEL_SERVER = b"com.amazonaws.ml.mms.ModelServer"
_PHRASE = "refused"


def model_fn(model_dir: str, context: Any = None) -> Handler:
    """The model, which has answered its golden rows. Raises ContainerError."""
    try:
        return load(Path(model_dir))
    except ContainerError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if context is not None:
            _end_server()
        raise


def transform_fn(
    model: Handler, body: str | bytes, content_type: str, accept: str, context: Any = None
) -> Any:
    """The answer to a body, with its status, and the model's version in VERSION_HEADER."""
    status = 200
    try:
        content = body.encode() if isinstance(body, str) else bytes(body)
        answer, answer_type = model.answer(content, content_type or "", accept or "")
    except RequestRefused as refused:
        status, answer_type = refused.status, JSON
        answer = json.dumps({"error": str(refused)}).encode()
    version = os.environ.get("SF_SAGEMAKER_MODEL_VERSION", "0")
    if context is None:
        from flask import Response  # of the XGBoost image

        return Response(answer, status, headers={VERSION_HEADER: version}, content_type=answer_type)
    if status != 200:
        context.set_response_status(code=status, phrase=_PHRASE)
    context.set_response_header(0, VERSION_HEADER, version)
    return answer


def _end_server() -> None:
    """Ends the multi-model-server that this process works for; nothing where there is none."""
    process = os.getpid()
    while process > 0:
        if _MULTI_MODEL_SERVER in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(process, signal.SIGTERM)
            return
        status = Path(f"/proc/{process}/stat").read_text()
        process = int(status.rpartition(")")[2].split()[1])
