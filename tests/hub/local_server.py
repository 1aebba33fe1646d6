"""A server on loopback whose files can be cut off, changed, moved, and sent with or without ranges and ETags."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from t2p.hub.download import Client

LOCAL = Client(schemes=("http",), timeout=10.0)


@dataclass
class Served:
    """cut: the connection is closed after so many bytes of a body. ranges: whether Range is answered. tag: whether an
    ETag is sent; if_range: whether If-Range is heeded. moved: redirects, path -> address."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True
    tag: bool = True
    if_range: bool = True
    kind: str = "application/octet-stream"
    coding: str = ""
    length: bool = True
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, Range)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        s = self.served
        s.asked.append((self.path, self.headers.get("Range", "")))
        if self.path in s.moved:
            self.send_response(302)
            self.send_header("Location", s.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path not in s.files:
            self.send_error(404, "Not Found")
        else:
            self._send(s.files[self.path])

    def _send(self, body: bytes) -> None:
        s, tag = self.served, f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        first, wanted = 0, self.headers.get("Range")
        if wanted and s.ranges and (not s.if_range or self.headers.get("If-Range") == tag):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if first >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        headers = {"Content-Type": s.kind, "Content-Encoding": s.coding, "ETag": tag if s.tag else ""}
        headers["Content-Length"] = str(len(body) - first) if s.length else ""
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[first:] if s.cut is None else body[first : first + s.cut])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    served = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
