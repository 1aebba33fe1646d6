"""Downloads: whole or not there, resumed from where they were cut off, never mixed from two versions."""

from __future__ import annotations

import hashlib
import random
import socket

import pytest
from local_server import LOCAL

from t2p.hub.download import Client, Unreachable, download
from t2p.hub.table import File, size_bounds
from t2p.io import UserError

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "a" / "weights.npy"


def get(served, target, name="weights.npy", **facts):
    download(File(name, f"{served.url}/{name}", **facts), target, LOCAL)


def left(target):
    return sorted(p.name for p in target.parent.iterdir())


def cut(served, target, count, **facts):
    served.cut = count
    with pytest.raises(UserError, match=f"cut off after {count:,} of 300,000 bytes"):
        get(served, target, **facts)
    served.cut = None
    assert left(target) == ["weights.npy.partial", "weights.npy.partial.json"]


def test_a_whole_file_arrives(served, target):
    served.files["/weights.npy"] = BODY
    get(served, target, size="300 kB", sha256=SHA)
    assert target.read_bytes() == BODY and left(target) == ["weights.npy"]
    assert served.asked == [("/weights.npy", "")]


def test_a_download_goes_on_where_it_was_cut_off(served, target):
    served.files["/weights.npy"] = BODY
    cut(served, target, 100_000)
    cut_again = 50_000
    served.cut = cut_again
    with pytest.raises(UserError, match="cut off after 150,000 of 300,000 bytes"):
        get(served, target)
    served.cut = None
    get(served, target)
    assert target.read_bytes() == BODY and left(target) == ["weights.npy"]
    assert [wanted for _, wanted in served.asked] == ["", "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("setting", ["ranges", "tag"])
def test_without_ranges_or_versions_it_begins_again(served, target, setting):
    served.files["/weights.npy"] = BODY
    setattr(served, setting, False)
    cut(served, target, 100_000)
    get(served, target)
    assert target.read_bytes() == BODY
    assert served.asked[-1][1] == ("bytes=100000-" if setting == "ranges" else "")


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("length", [300_000, 250_000, 90_000])
def test_a_file_that_changed_between_parts_is_not_mixed(served, target, if_range, length):
    """Whether the server heeds If-Range, sends the rest of the new file regardless, or has nothing left to send."""
    served.files["/weights.npy"], served.if_range = BODY, if_range
    cut(served, target, 100_000)
    served.files["/weights.npy"] = OTHER[:length]
    get(served, target)
    assert target.read_bytes() == OTHER[:length]


def test_a_part_of_another_address_is_not_gone_on_from(served, target):
    served.files |= {"/weights.npy": BODY, "/new.npy": OTHER}
    cut(served, target, 100_000)
    get(served, target, "new.npy")
    assert target.read_bytes() == OTHER and served.asked[-1] == ("/new.npy", "")


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": "301 kB"}, {"size": "3 MB"}])
def test_nothing_is_left_of_what_is_not_the_published_file(served, target, facts):
    size = {"size": "302 kB"} if facts == {"size": "301 kB"} else facts  # 301 kB stands for 300 to 302
    served.files["/weights.npy"] = BODY
    with pytest.raises(UserError, match="published"):
        get(served, target, **size)
    assert left(target) == []


def test_redirects_are_followed_to_allowed_addresses_alone(served, target):
    served.files["/there.npy"] = BODY
    served.moved = {"/weights.npy": f"{served.url}/there.npy"}
    cut(served, target, 1000)
    get(served, target)
    assert target.read_bytes() == BODY and served.asked[-1] == ("/there.npy", "bytes=1000-")
    for address in ("ftp://127.0.0.1/x", "file:///etc/hostname", "https://127.0.0.1/x"):
        served.moved["/weights.npy"] = address
        with pytest.raises(UserError, match=r"only addresses that begin with http://|not allowed"):
            get(served, target.with_name("other.npy"))


def test_only_https_is_asked_by_default(served, target):
    with pytest.raises(UserError, match="only addresses that begin with https://"):
        download(File("x", f"{served.url}/x"), target, Client())
    assert served.asked == []


def test_what_is_no_copy_of_the_file_is_refused(served, target):
    with pytest.raises(Unreachable, match="answers 404 Not Found"):
        get(served, target)
    served.files["/weights.npy"], served.kind = b"<html>log in</html>", "text/html; charset=utf-8"
    with pytest.raises(Unreachable, match="a web page"):
        get(served, target)
    served.kind, served.coding = "application/octet-stream", "gzip"
    with pytest.raises(Unreachable, match="gzip-coded"):
        get(served, target)
    served.coding, served.length = "", False
    with pytest.raises(Unreachable, match="does not say how long the file is"):
        get(served, target)
    assert not target.exists()


def test_without_a_length_the_sum_decides(served, target):
    served.files["/weights.npy"], served.length, served.cut = BODY, False, 1000
    with pytest.raises(UserError, match="sha256"):
        get(served, target, sha256=SHA)
    assert left(target) == []
    served.cut = None
    get(served, target, sha256=SHA)
    assert target.read_bytes() == BODY


def test_offline(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{free.getsockname()[1]}/weights.npy"
        with pytest.raises(Unreachable, match="cannot be reached"):
            download(File("weights.npy", url), target, LOCAL)
    assert left(target) == []


def test_two_processes_do_not_write_one_file(served, target):
    import fcntl

    served.files["/weights.npy"] = BODY
    cut(served, target, 1000)
    with open(f"{target}.partial", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            get(served, target)
    get(served, target)
    assert target.read_bytes() == BODY


def test_published_sizes_are_meant_to_their_last_digit():
    assert size_bounds("570 Bytes") == (570, 570)
    assert size_bounds("436 MB") == (435e6, 437e6)
    assert size_bounds("1.21 kB") == pytest.approx((1200, 1220))
