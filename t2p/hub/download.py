"""One file over https: resumed where it was cut off, verified, and at its place only when it is whole.

While it arrives it is `<name>.partial`, with `<name>.partial.json` beside it saying which version of the file it is a
part of (ETag or Last-Modified); a part of another version is never added to.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from t2p import __version__
from t2p.hub.table import File, size_bounds
from t2p.io import UserError, read_json, write_json

CHUNK = 2**20


class Unreachable(UserError):
    """The file cannot be had from here: no network, or the server refuses."""


@dataclass(frozen=True)
class Client:
    """Asks servers, through the proxies that the environment names. schemes: which addresses are asked, redirects
    among them: https alone, but for tests that bring a server of their own."""

    schemes: tuple[str, ...] = ("https",)
    timeout: float = 60.0  # seconds without a byte

    def check(self, url: str) -> None:
        if urlsplit(url).scheme not in self.schemes:
            raise UserError(f"{url}: only addresses that begin with {' or '.join(self.schemes)}:// are asked")

    def open(self, url: str, headers: dict[str, str]) -> Any:
        """The response; urllib's errors otherwise."""
        self.check(url)
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.build_opener(_Redirects(self)).open(request, timeout=self.timeout)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only where the client may go; urllib by itself follows from https to http and ftp."""

    def __init__(self, client: Client):
        self._client = client

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # urllib's names
        self._client.check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(file: File, target: Path, client: Client) -> None:
    """Writes `target`, going on from what an earlier call left. Raises Unreachable where the server cannot be asked,
    UserError where the download is cut off (what came is kept) or is not the published file (nothing is kept)."""
    partial = target.with_name(f"{target.name}.partial")
    note = target.with_name(f"{target.name}.partial.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "ab") as stream:
            _lock(stream, partial)
            try:
                _transfer(client, file, stream, note)
            except Unreachable:
                if not os.fstat(stream.fileno()).st_size:
                    partial.unlink()  # nothing came
                raise
            stream.flush()
            os.fsync(stream.fileno())
            _put(partial, note, target, file)
    except OSError as e:  # the network's are dealt with where they arise
        raise UserError(f"{partial} cannot be written ({e.strerror or e}); what came is kept") from e


def _put(partial: Path, note: Path, target: Path, file: File) -> None:
    """The whole file to its place; what is not the published file is removed."""
    try:
        verify(partial, file)
        os.replace(partial, target)
    finally:
        for path in (partial, note):
            path.unlink(missing_ok=True)


def verify(path: Path, file: File) -> None:
    """UserError unless size and sha256 are the published ones, as far as they are published."""
    count = path.stat().st_size
    if file.size and not size_bounds(file.size)[0] <= count <= size_bounds(file.size)[1]:
        raise UserError(f"{path} has {count:,} bytes; {file.name} is published with {file.size}: it is another file")
    if file.sha256:
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.sha256:
            raise UserError(
                f"{path} is not the published {file.name}: its sha256 is {found}, published is {file.sha256}"
            )


def _lock(stream: BinaryIO, partial: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise UserError(f"another process is downloading {partial}; wait for it") from e


def _transfer(client: Client, file: File, stream: BinaryIO, note: Path) -> None:
    """Appends to the stream what is missing, after emptying it where what it holds cannot be gone on from."""
    start, known = os.fstat(stream.fileno()).st_size, _read_note(note, file.url)
    if not known.get("version"):
        start = 0
    response = _ask(client, file.url, start, known)
    if response is not None and response.status == 206 and not _continues(response, start, known):
        response.close()
        response = None
    if response is None:
        response = _ask(client, file.url, 0, {})
    with response:
        if response.status != 206:
            start = 0  # the server sends all of it
        stream.truncate(start)
        total = _total(response, start)
        _check(response, file, total, start, note.parent)
        write_json(note, {"url": file.url, "version": _version(response) or known.get("version", ""), "total": total})
        _copy(response, stream, file, start, total)


def _read_note(note: Path, url: str) -> dict[str, Any]:
    """{} unless it is there, readable and of the same address."""
    try:
        found = read_json(note)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("url") == url else {}


def _ask(client: Client, url: str, start: int, known: dict[str, Any]) -> Any:
    """The response; None where the server has nothing from `start` on."""
    headers = {"User-Agent": f"t2p/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["version"]}
    try:
        return client.open(url, headers)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416 and start:
            return None
        raise Unreachable(f"{url}: the server answers {e.code} {e.reason}") from e
    except (OSError, http.client.HTTPException) as e:
        raise Unreachable(f"{url} cannot be reached ({getattr(e, 'reason', e)})") from e


def _version(response: Any) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change, else ""."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _continues(response: Any, start: int, known: dict[str, Any]) -> bool:
    """Whether a partial answer is the rest of what is here. A server may leave the version out of such an answer."""
    first, total = _content_range(response)
    return first == start and total == known.get("total") and _version(response) in ("", known["version"])


def _content_range(response: Any) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length")
    return None if length is None else start + int(length)


def _check(response: Any, file: File, total: int | None, start: int, folder: Path) -> None:
    """UserError for what is no copy of the file, or has no room, before any of it is written."""
    kind, coding = response.headers.get_content_type(), response.headers.get("Content-Encoding", "identity")
    if kind == "text/html" or coding != "identity":
        what = "a web page (a login, or a notice?)" if kind == "text/html" else f"a {coding}-coded answer"
        raise Unreachable(f"{file.url}: the server sends {what} instead of the file")
    if total is None and not file.sha256:
        raise Unreachable(f"{file.url}: the server does not say how long the file is, and no sha256 is published")
    if total is not None and total - start > shutil.disk_usage(folder).free:
        raise UserError(f"{folder} has no room for {file.name}: {total - start:,} bytes are still to come")


def _copy(response: Any, stream: BinaryIO, file: File, start: int, total: int | None) -> None:
    received, reason = start, "the connection ended"
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=file.name, disable=None) as bar:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as e:
                reason, chunk = str(e) or type(e).__name__, b""
                total = -1 if total is None else total  # unknown, but certainly not all of it
            if not chunk:
                break
            stream.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if total is not None and received != total:
        whole = f" of {total:,}" if total >= 0 else ""
        raise UserError(
            f"{file.url} was cut off after {received:,}{whole} bytes ({reason}). What came is kept: give the same "
            "command again to go on from there"
        )
