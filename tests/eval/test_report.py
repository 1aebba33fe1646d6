"""The HTML report: whole in one file, safe with any text."""

from __future__ import annotations

import re

import numpy as np

from t2p.eval import report, track_report


def test_page_needs_no_network_and_escapes_text(tmp_path) -> None:
    sections = [
        report.section("a < b", report.paragraph("<script>alert(1)</script>")),
        report.table(["who", "value"], [["model & co", 0.123456], ["flag", True], ["count", 3], ["none", np.nan]]),
        report.curves({"loss": ([0, 1], [1.0, 0.1])}, "step", "loss", log=True),
        report.image(b"\x89PNG", "a picture"),
        report.video(b"mp4", "a clip"),
    ]
    page = report.write_report(tmp_path / "report.html", "title", sections).read_text()
    assert "<script" not in page and "a &lt; b" in page and "model &amp; co" in page
    assert "0.1235" in page and ">True<" in page and ">3<" in page and ">nan<" in page
    sources = re.findall(r'(?:src|href)="([^"#]+)', page)
    assert sources and all(s.startswith("data:") for s in sources if not s.startswith("#"))
    assert "<svg" in page
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_curves_of_a_log_that_was_cut_off(tmp_path):
    lines = ['{"step": 1, "train/loss": 2.0}', '{"step": 2, "train/loss": null}', '{"step": 3, "train/loss": 1.0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "tra']))
    assert "svg" in track_report.training_curves(tmp_path)
    assert track_report.training_curves(tmp_path / "none") == ""
