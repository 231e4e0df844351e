"""How the toolkits in SageMaker's inference images call a model's `inference.py`: a program of its own.

`xgboost`: sagemaker-containers, which loads the model at the first request, pings included, answers 500
as long as that fails, and calls `transform_fn` with four arguments for a response of Flask's.
`huggingface`: sagemaker-huggingface-inference-toolkit on multi-model-server. A model that can't be
loaded is tried again with each request, whatever fails is status 400, and pings are answered all the
while; `transform_fn` gets a context too, through which it sets status and headers.

Only what these calls look like from the script's side, and from the client's.
"""

import importlib
import inspect
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from flask import Flask, Response, request
from werkzeug.serving import WSGIRequestHandler, make_server

_JSON = "application/json"
_TEXTS = (_JSON, "text/csv")
_ANY = "*/*"


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *args: Any, **kwargs: Any) -> None:
        pass


def user_module(code: Path) -> ModuleType:
    sys.path.insert(0, str(code))
    return importlib.import_module(os.environ["SAGEMAKER_PROGRAM"].removesuffix(".py"))


def flask_worker(model_dir: Path) -> Flask:
    """As sagemaker_containers' worker: the code is copied to /opt/ml/code and imported from there."""
    code = model_dir.parent / "code"
    shutil.copytree(os.environ["SAGEMAKER_SUBMIT_DIRECTORY"], code, dirs_exist_ok=True)
    app = Flask("worker")
    loading = threading.Lock()
    loaded: list[tuple[ModuleType, Any]] = []

    def user() -> tuple[ModuleType, Any]:
        with loading:
            if not loaded:
                module = user_module(code)
                loaded.append((module, module.model_fn(str(model_dir))))
            return loaded[0]

    def ping() -> Response:
        user()
        return Response(status=200, mimetype=_JSON)

    def invocations() -> Any:
        module, model = user()
        content_type = request.headers.get("Content-Type") or _JSON
        accept = request.headers.get("Accept")
        if not accept or accept == _ANY:
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", _JSON)
        content = request.get_data(as_text=content_type in _TEXTS)
        result = module.transform_fn(model, content, content_type, accept)
        if isinstance(result, tuple):
            return Response(response=result[0], mimetype=result[1])
        return result

    app.add_url_rule("/ping", view_func=ping)
    app.add_url_rule("/invocations", view_func=invocations, methods=["POST"])
    return app


class Context:
    """multi-model-server's context, as far as one request at a time needs it."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.status = 200
        self.phrase = ""
        self.headers: dict[str, str] = {}

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status, self.phrase = code, phrase

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.headers[key] = value

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)


def multi_model_server(model_dir: Path) -> Flask:
    """One worker, which loads the model when the server starts."""
    app = Flask("multi-model-server")
    context = Context()
    one_at_a_time = threading.Lock()
    loaded: list[tuple[Callable[..., Any], Any, list[Any]]] = []

    def initialize() -> None:
        module = user_module(model_dir / "code")
        extra = [context] if len(inspect.signature(module.model_fn).parameters) == 2 else []
        model = module.model_fn(str(model_dir), *extra)
        count = len(inspect.signature(module.transform_fn).parameters)
        loaded.append((module.transform_fn, model, [context] if count == 5 else []))

    def handle() -> Response:
        if not loaded:
            initialize()
        transform, model, extra = loaded[0]
        content_type = request.headers.get("Content-Type")
        accept = request.headers.get("Accept")
        if not accept or accept == _ANY:
            accept = _JSON
        body: Any = request.get_data()
        if content_type in _TEXTS:
            body = body.decode("utf-8")
        answer = transform(model, body, content_type, accept, *extra)
        context.set_response_content_type(0, accept)
        return Response(answer, f"{context.status} {context.phrase}", headers=context.headers)

    def invocations() -> Response:
        with one_at_a_time:
            context.begin()
            try:
                return handle()
            except Exception as error:  # noqa: BLE001  as the toolkit does
                said = {"code": 400, "type": "InternalServerException", "message": str(error)}
                return Response(json.dumps(said), 400, mimetype=_JSON)

    def load() -> None:
        with one_at_a_time:
            try:
                initialize()
            except Exception as error:  # noqa: BLE001  as the model server does
                print(f"{type(error).__name__}: {error}", file=sys.stderr)

    app.add_url_rule("/ping", view_func=lambda: Response('{"status": "Healthy"}', mimetype=_JSON))
    app.add_url_rule("/invocations", view_func=invocations, methods=["POST"])
    threading.Thread(target=load, daemon=True).start()
    return app


def main() -> None:
    kind, model_dir, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # Paths in the environment are those in a container.
    submitted = os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    os.environ["SAGEMAKER_SUBMIT_DIRECTORY"] = submitted.replace("/opt/ml/model", str(model_dir))
    app = flask_worker(model_dir) if kind == "xgboost" else multi_model_server(model_dir)
    make_server("127.0.0.1", port, app, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main()
