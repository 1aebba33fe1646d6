"""TAP-Vid's measures against tapnet's own numbers."""

import pytest

from t2p.parity.harness import check


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_golden(shared, mode):
    report = check(shared / "golden" / "tapvid" / f"metrics_{mode}")
    assert report.status == "ok", report
