"""A server on loopback that speaks the Messages API as far as a streaming client with one tool needs it.

It answers requests in the order in which its script says, and remembers them as they came. The events of a stream are
those of https://platform.claude.com/docs/en/build-with-claude/streaming, pings included.
"""

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {
    "input_tokens": 1000,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 3000,
    "output_tokens": 1,
}
OUTPUT_TOKENS = 500

Event = tuple[str, dict[str, Any]]


@dataclass
class Reply:
    """One answer: its status, headers and body pieces, and how it ends."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes] = ()
    end: str = "whole"  # or "cut": the connection breaks; "stall": nothing more comes until the server closes


@dataclass
class Request:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes


def sse(events: Sequence[Event]) -> list[bytes]:
    return [f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode() for kind, data in events]


def begun(usage: dict[str, Any] | None = None) -> Event:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE if usage is None else usage,
    }
    return ("message_start", {"message": message})


def ended(stop_reason: str, output_tokens: int = OUTPUT_TOKENS) -> list[Event]:
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [("message_delta", {"delta": delta, "usage": {"output_tokens": output_tokens}}), ("message_stop", {})]


def text_block(text: str, index: int = 0) -> list[Event]:
    return [
        ("content_block_start", {"index": index, "content_block": {"type": "text", "text": ""}}),
        ("ping", {}),
        ("content_block_delta", {"index": index, "delta": {"type": "text_delta", "text": text}}),
        ("content_block_stop", {"index": index}),
    ]


def tool_block(given: object, index: int = 0, name: str = "propose", cut: int | None = None) -> list[Event]:
    """A call of a tool, its JSON in pieces of a few characters; `cut`: only so many characters of it."""
    block = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    text = json.dumps(given)[:cut]
    size = max(1, len(text) // 7)
    deltas: list[Event] = [
        (
            "content_block_delta",
            {"index": index, "delta": {"type": "input_json_delta", "partial_json": text[at : at + size]}},
        )
        for at in range(0, len(text), size)
    ]
    return [
        ("content_block_start", {"index": index, "content_block": block}),
        *deltas,
        ("content_block_stop", {"index": index}),
    ]


def stream(*events: Event, end: str = "whole") -> Reply:
    return Reply(headers={"content-type": "text/event-stream"}, pieces=sse(events), end=end)


def calls(given: object) -> Reply:
    """The usual answer: a sentence, then the tool."""
    return stream(begun(), *text_block("I change one thing."), *tool_block(given, 1), *ended("tool_use"))


def error(status: int, kind: str, message: str = "told by the server", **headers: str) -> Reply:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"content-type": "application/json", **named}, [json.dumps(body).encode()])


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that has read enough may go
            super().handle_error(request, client_address)


class MessagesApi:
    """The server. Each request takes the next reply of the script, the last one again and again."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.requests: list[Request] = []
        self.closing = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                api.requests.append(Request(self.path, headers, json.loads(raw), raw))
                reply = api.script.pop(0) if len(api.script) > 1 else api.script[0]
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.end == "whole":
                    self.send_header("content-length", str(sum(map(len, reply.pieces))))
                else:
                    self.send_header("content-length", str(10**6))
                self.end_headers()
                for piece in reply.pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
                if reply.end == "stall":
                    api.closing.wait()
                self.close_connection = reply.end != "whole"

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator["MessagesApi"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()
