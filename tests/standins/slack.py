"""A stand-in for Slack's Web API on this machine: it remembers what was posted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl


@dataclass
class SlackStandIn:
    """`error` is what Slack answers instead of taking the message, as channel_not_found."""

    url: str = ""
    error: str | None = None
    posted: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@contextmanager
def slack_api() -> Iterator[SlackStandIn]:
    slack = SlackStandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/api/chat.postMessage", self.path
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            is_json = "json" in self.headers["Content-Type"]
            slack.tokens.append(self.headers["Authorization"])
            if slack.error is None:
                slack.posted.append(json.loads(body) if is_json else dict(parse_qsl(body)))
            answer = {"ok": True} if slack.error is None else {"ok": False, "error": slack.error}
            payload = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        slack.url = f"http://127.0.0.1:{server.server_port}/api/"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield slack
        finally:
            server.shutdown()
            thread.join()
