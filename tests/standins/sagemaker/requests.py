"""A request to an AWS service as a value, and an error as the service's protocol words it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

from moto.core.model import OperationModel, ServiceModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import BackendRequest
from werkzeug.exceptions import NotFound

# What requests are signed for, where it isn't the name of boto3's client.
_CLIENT_NAMES = {
    "tagging": "resourcegroupstaggingapi",
    "servicequotas": "service-quotas",
    "monitoring": "cloudwatch",
}

# Services that sign as another does, by what their paths start with.
_BY_PATH = {
    ("sagemaker", "/endpoints/"): "sagemaker-runtime",
    ("bedrock", "/model/"): "bedrock-runtime",
}

EXECUTION_ROLE_KEY = "ASIAEXECUTIONROLE000"

_KEPT_OBJECT_BYTES = 65_536


@dataclass(frozen=True)
class Request:
    """One call. `service` is boto3's name of the client, `operation` the API's ("PutObject").

    `parameters` are those of the API reference, without the contents of an object in S3.
    `headers` are without Authorization. `body` is empty for large objects in S3.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any]
    region: str
    access_key: str
    protocol: str
    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def by_execution_role(self) -> bool:
        """Made for a job, by its execution role, and not by a client of the service."""
        return self.access_key == EXECUTION_ROLE_KEY


class ApiError(Exception):
    """What a service answers instead of a result."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class ValidationError(ApiError):
    def __init__(self, message: str) -> None:
        super().__init__("ValidationException", message)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


# What an operation answers: its result, or an Answer that is no JSON.
Handler = Callable[[Request], "Mapping[str, Any] | Answer"]
Operations = Mapping[tuple[str, str], Handler]


def read_request(environ: dict[str, Any], body: bytes) -> Request:
    """The request of a WSGI environ whose body was read already."""
    http = BackendRequest(environ)
    headers = {name: value for name, value in http.headers.items() if name != "Authorization"}
    key, region, service = _signature(http.headers.get("Authorization", ""))
    for (signing, start), name in _BY_PATH.items():
        if service == signing and http.path.startswith(start):
            service = name
    model = get_service_model(service)
    protocol = determine_request_protocol(model, _content_type(model, http))
    operation, parameters = "", {}
    try:
        found, uri_parameters = get_service_router(service).match(http)
    except NotFound:
        operation = f"{http.method} {http.path}"
    else:
        operation = found.name
        parameters = _parameters(found, protocol, http, uri_parameters, service)
    kept = service != "s3" or len(body) <= _KEPT_OBJECT_BYTES
    return Request(
        service=service,
        operation=str(operation),
        parameters=parameters,
        region=region,
        access_key=key,
        protocol=protocol,
        method=http.method,
        uri=http.full_path,
        headers=headers,
        body=body if kept else b"",
    )


def _content_type(model: ServiceModel, http: BackendRequest) -> str:
    """What tells the protocol; where the body is a payload, its type tells nothing."""
    return "" if str(model.protocol).startswith("rest") else http.content_type or ""


def _signature(authorization: str) -> tuple[str, str, str]:
    """Access key, region and service of "AWS4-HMAC-SHA256 Credential=KEY/DAY/REGION/SERVICE/…"."""
    _, found, credential = authorization.partition("Credential=")
    parts = credential.split(",")[0].split("/")
    if not found or len(parts) != 5:
        return "", "us-east-1", "s3"
    key, _, region, service, _ = parts
    return key, region, _CLIENT_NAMES.get(service, service)


def _parameters(
    operation: OperationModel,
    protocol: str,
    http: BackendRequest,
    uri_parameters: dict[str, Any],
    service: str,
) -> dict[str, Any]:
    is_object = service == "s3"
    parsed = PROTOCOL_PARSERS[protocol](operation).parse(
        {
            "method": http.method,
            "values": http.values,
            "headers": http.headers,
            "body": b"" if is_object else http.data,
            "url_path": http.path,
            "url_params": uri_parameters,
        }
    )
    return {
        name: value
        for name, value in parsed.items()
        if not (is_object and (name == "Body" or value is None))
    }


def error_answer(request: Request, error: ApiError) -> Answer:
    """The error in the words of the request's protocol."""
    identifier = str(uuid4())
    headers = {"x-amzn-requestid": identifier, "x-amz-request-id": identifier}
    if request.protocol in ("json", "rest-json"):
        headers |= {
            "Content-Type": "application/x-amz-json-1.1",
            "x-amzn-errortype": error.code,
        }
        body = json.dumps({"__type": error.code, "message": error.message})
        return Answer(error.status, headers, body.encode())
    headers["Content-Type"] = "text/xml"
    if request.method == "HEAD":
        return Answer(error.status, headers, b"")
    inner = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    request_id = f"<RequestId>{identifier}</RequestId>"
    body = {
        "query": f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error>{request_id}"
        "</ErrorResponse>",
        "ec2": f"<Response><Errors><Error>{inner}</Error></Errors>"
        f"<RequestID>{identifier}</RequestID></Response>",
        "rest-xml": f"<Error>{inner}{request_id}</Error>",
    }[request.protocol]
    return Answer(error.status, headers, f'<?xml version="1.0"?>{body}'.encode())


def json_answer(result: Mapping[str, Any]) -> Answer:
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "x-amzn-requestid": str(uuid4()),
    }
    return Answer(200, headers, json.dumps(result, default=_timestamp).encode())


def _timestamp(value: object) -> float:
    if isinstance(value, datetime):
        return round(value.timestamp(), 3)
    raise TypeError(f"{value!r} can't be part of an answer")
