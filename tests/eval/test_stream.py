"""Pictures over HTTP: what is shown arrives, viewers come and go, and one that does not read holds nobody up."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from t2p.eval import stream as streams
from t2p.eval.stream import Stream
from t2p.io import UserError

FACTS = {"rows": [["task", "push <the> box"], ["successes", "3"]], "captions": {"one": "seed 7"}, "shown": ["one"]}
RED, BLUE = (220, 30, 30), (20, 40, 230)


@pytest.fixture
def stream() -> Iterator[Stream]:
    with Stream({"one": "the first", "two": "the second"}, lambda: FACTS, title="a < b") as made:
        yield made


def plain(color: tuple[int, int, int], size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), color, np.uint8)


def connect(stream: Stream, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(stream.url).netloc, timeout=10)
    connection.request("GET", path)
    return connection.getresponse()


def part(response: http.client.HTTPResponse) -> np.ndarray:
    """The next picture of a multipart answer, read as far as the boundary behind it."""
    header = {}
    while line := response.readline().strip():
        name, _, value = line.decode().partition(":")
        header[name.lower()] = value.strip()
    assert header["content-type"] == "image/jpeg"
    jpeg = response.read(int(header["content-length"]))
    assert response.readline() == b"\r\n" and response.readline() == b"--picture\r\n"
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def until(true, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_pictures_arrive_as_they_were_shown(stream) -> None:
    rows = np.linspace(0, 255, 48, dtype=np.uint8)[:, None, None] * np.ones((1, 64, 3), np.uint8)
    stream.show("one", rows)
    response = connect(stream, "/one.mjpeg")
    assert response.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=picture"
    assert response.readline() == b"--picture\r\n"
    seen = part(response).astype(int)
    assert seen.shape == rows.shape and np.abs(seen - rows).max() < 8  # lossy, but row 0 is on top
    for color in (RED, BLUE, RED):
        stream.show("two", plain((0, 0, 0)))  # another's picture does not come here
        stream.show("one", plain(color))
        assert np.abs(part(response).astype(int) - color).max() < 8
    response.close()


def test_page_and_facts(stream) -> None:
    page = connect(stream, "/")
    text = page.read().decode()
    assert page.status == 200 and "a &lt; b" in text and 'id="two"' in text
    assert "http://" not in text and "https://" not in text  # needs no network
    assert json.loads(connect(stream, "/facts").read()) == FACTS
    for path in ("/three.mjpeg", "/one", "/../etc/passwd", "/facts/x"):
        assert connect(stream, path).status == 404


def test_only_this_machine_is_served(stream) -> None:
    assert stream.url.startswith("http://127.0.0.1:")
    with socket.socket() as probe:  # an address of this machine that is not the loopback's first
        probe.settimeout(2)
        port = urlsplit(stream.url).port
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_several_viewers_see_the_same_and_are_counted(stream) -> None:
    assert stream.watched() == set()
    stream.show("one", plain(RED))
    viewers = [connect(stream, "/one.mjpeg") for _ in range(3)]
    for viewer in viewers:
        viewer.readline()
        assert np.abs(part(viewer).astype(int) - RED).max() < 8
    assert stream.watched() == {"one"}
    stream.wait(30)  # returns at once: somebody watches
    for viewer in viewers:
        viewer.close()

    def left() -> bool:
        stream.show("one", plain(BLUE))
        return stream.watched() == set()

    until(left)


def test_a_viewer_who_does_not_read_holds_nobody_up_and_is_dropped(monkeypatch) -> None:
    monkeypatch.setattr(streams._Handler, "timeout", 1.0)
    rng = np.random.default_rng(0)
    loud = [rng.integers(0, 256, (480, 640, 3), np.uint8) for _ in range(2)]  # noise: no JPEG makes it small
    with Stream({"one": ""}, lambda: FACTS) as stream, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", urlsplit(stream.url).port))
        deaf.sendall(b"GET /one.mjpeg HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: stream.watched() == {"one"})
        reader = connect(stream, "/one.mjpeg")
        reader.readline()
        longest = 0.0
        for number in range(40):
            began = time.monotonic()
            stream.show("one", loud[number % 2])
            longest = max(longest, time.monotonic() - began)
            part(reader)  # the other viewer gets every one of them
        assert longest < 0.9  # and `show` never waited as long as the deaf one's patience
        reader.close()

        def left() -> bool:
            stream.show("one", loud[0])
            return stream.watched() == set()

        until(left)


def test_an_idle_stream_repeats_its_picture_and_so_notices_who_has_gone(stream, monkeypatch) -> None:
    monkeypatch.setattr(streams, "REPEAT", 0.05)
    stream.show("one", plain(BLUE))
    viewer = connect(stream, "/one.mjpeg")
    viewer.readline()
    assert np.array_equal(part(viewer), part(viewer))
    viewer.close()
    until(lambda: stream.watched() == set())


def test_closing_ends_viewers_and_server() -> None:
    before = set(threading.enumerate())
    stream = Stream({"one": ""}, lambda: FACTS)
    stream.show("one", plain(RED))
    viewer = connect(stream, "/one.mjpeg")
    viewer.readline()
    part(viewer)
    stream.close()
    stream.close()
    assert viewer.read() == b""
    until(lambda: set(threading.enumerate()) <= before)
    with pytest.raises(OSError):
        connect(stream, "/")
    stream.wait(30)  # nobody will come


def test_a_port_that_cannot_be_had_is_named(stream) -> None:
    port = urlsplit(stream.url).port
    for wrong in (port, 70000):
        with pytest.raises(UserError, match=f"port {wrong}"):
            Stream({}, lambda: FACTS, wrong)


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=800,700", "--virtual-time-budget=3000"),
)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed here")
def test_a_browser_shows_pictures_and_facts(stream, tmp_path: Path) -> None:
    """The upper half of the picture is red, the lower one blue: both are on the page, each in its place."""
    picture = plain(RED, (120, 160))
    picture[60:] = BLUE
    stream.show("one", picture)
    shot = tmp_path / "shot.png"
    options = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", stream.url]
    subprocess.run([CHROMIUM, *HEADLESS, *options], capture_output=True, timeout=120, check=True)
    page = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    red, blue = (np.abs(page - color).max(-1) < 25 for color in (RED, BLUE))
    assert red.sum() == pytest.approx(480 * 180, rel=0.05) and blue.sum() == pytest.approx(480 * 180, rel=0.05)
    assert np.nonzero(red)[0].max() <= np.nonzero(blue)[0].min() + 4
    dark = (page < 90).all(-1)
    assert dark[: np.nonzero(red)[0].min()].sum() > 300  # the facts stand above
