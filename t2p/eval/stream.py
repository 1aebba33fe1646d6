"""Pictures as they come, in a browser: a page with motion JPEG over plain HTTP, on this machine alone.

    with Stream({"front": "front camera"}, facts=lambda: {"rows": [["step", 3]], "captions": {}}) as stream:
        print(stream.url)
        stream.show("front", picture)  # as often as there is a new one

Every viewer has a thread that sends the newest picture when it has sent the last one: a viewer that is slow misses
pictures, one that does not read at all is dropped, and `show` waits for neither. No other page may read what is sent.
"""

from __future__ import annotations

import contextlib
import html
import json
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

import numpy as np
import simplejpeg

from t2p.io import UserError

HOST = "127.0.0.1"
PATIENCE = 5.0  # s after which a viewer that reads nothing is dropped
REPEAT = 2.0  # s after which the same picture is sent again: that is how a viewer who has gone is noticed
QUALITY = 85
_BOUNDARY = "picture"
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }}
h1 {{ font-size: 1.4rem }} td {{ padding: .1rem 1.2rem .1rem 0 }} td:first-child {{ color: #5a6575 }}
figure {{ display: inline-block; margin: .8rem 1rem 0 0; vertical-align: top }} img {{ display: block; width: {width}px;
max-width: 100%; background: #dde2ea }} figcaption {{ font-size: .85rem; color: #5a6575; min-height: 1.5em }}
figure[hidden] {{ display: none }}
</style></head><body><h1>{title}</h1><table id="facts"></table><div>{figures}</div><script>
const table = document.getElementById("facts"), timer = setInterval(tell, 500);
tell();
function add(row) {{
  const line = table.insertRow();
  for (const cell of row) line.insertCell().textContent = cell;
}}
async function tell() {{
  let facts;
  try {{ facts = await (await fetch("facts")).json(); }}
  catch {{ clearInterval(timer); add(["", "It has ended; this is how it stood last."]); return; }}
  table.replaceChildren();
  facts.rows.forEach(add);
  for (const figure of document.querySelectorAll("figure")) {{
    figure.hidden = !facts.shown.includes(figure.id);
    if (!figure.hidden && !figure.firstChild.src) figure.firstChild.src = figure.id + ".mjpeg";
    if (figure.id in facts.captions) figure.lastChild.textContent = facts.captions[figure.id];
  }}
}}
</script></body></html>"""


class Stream:
    """The server. To be closed: use `with`.

    names: {name of a picture, as it stands in its address: title under it}. facts: called by viewers' threads for what
    the page says beside the pictures, JSON-able: {"rows": [[what, value], ...], "captions": {name: text}, "shown":
    [names whose pictures are to be seen]}. port: 0 takes one that is free; UserError where one cannot be had."""

    def __init__(
        self,
        names: Mapping[str, str],
        facts: Callable[[], Mapping[str, Any]],
        port: int = 0,
        title: str = "t2p",
        width: int = 480,
    ):
        self.names, self.facts = dict(names), facts
        self.page = _page(self.names, title, width)
        self._changed = threading.Condition()
        self._pictures: dict[str, tuple[int, bytes]] = {}  # name -> (how many there were, JPEG)
        self._viewers: Counter[str] = Counter()
        self._closed = False
        self._server = _listen(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def watched(self) -> set[str]:
        """Names of the pictures that somebody is looking at."""
        with self._changed:
            return {name for name, count in self._viewers.items() if count > 0}

    def wait(self, seconds: float) -> None:
        """Until somebody looks at a picture, the stream is closed, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._viewers.values()), seconds)

    def show(self, name: str, picture: np.ndarray) -> None:
        """The newest picture [H, W, 3] uint8 of a name."""
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), QUALITY, colorspace="RGB")
        with self._changed:
            self._pictures[name] = (self._pictures.get(name, (0, b""))[0] + 1, jpeg)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the server and its viewers; may be called again."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def viewer(self, name: str) -> Iterator[None]:
        """Counts a viewer of a picture."""
        with self._changed:
            self._viewers[name] += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._viewers[name] -= 1

    def newer(self, name: str, than: int) -> tuple[int, bytes] | None:
        """(its number, JPEG) of a newer picture, waited for; after REPEAT seconds the old one, if there is any. None
        when the stream is closed."""
        with self._changed:
            there = lambda: self._pictures.get(name, (0, b""))  # noqa: E731
            while not self._closed:
                self._changed.wait_for(lambda: self._closed or there()[0] > than, REPEAT)
                if there()[0] and not self._closed:
                    return there()
        return None


def _page(names: Mapping[str, str], title: str, width: int) -> bytes:
    figures = "".join(
        f'<figure id="{html.escape(name)}" hidden><img alt="{html.escape(text)}">'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for name, text in names.items()
    )
    return _PAGE.format(title=html.escape(title), width=width, figures=figures).encode()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    stream: Stream


def _listen(stream: Stream, port: int) -> _Server:
    try:
        server = _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot serve at port {port} ({error}); name another, or 0 for one that is free") from None
    server.stream = stream
    return server


class _Handler(BaseHTTPRequestHandler):
    """One request: /, /facts, or /<name>.mjpeg."""

    timeout = PATIENCE
    server: _Server

    def do_GET(self) -> None:
        stream, path = self.server.stream, self.path.partition("?")[0].lstrip("/")
        name = path.removesuffix(".mjpeg")
        with contextlib.suppress(OSError):  # the viewer has gone, or reads nothing
            if path == "":
                self._answer("text/html; charset=utf-8", stream.page)
            elif path == "facts":
                self._answer("application/json", json.dumps(stream.facts()).encode())
            elif path.endswith(".mjpeg") and name in stream.names:
                with stream.viewer(name):
                    self._pictures(stream, name)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to the rollout."""

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _pictures(self, stream: Stream, name: str) -> None:
        """Browsers show a picture when the boundary behind it has come, so that follows at once."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(f"--{_BOUNDARY}\r\n".encode())
        number = 0
        while (found := stream.newer(name, number)) is not None:
            number, jpeg = found
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            self.wfile.write(head + jpeg + f"\r\n--{_BOUNDARY}\r\n".encode())
