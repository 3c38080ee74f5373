"""What a run tells while it goes on."""

from __future__ import annotations

import time

from lake import report


def test_a_long_stage_says_that_it_lives_and_a_short_one_only_how_long_it_took(monkeypatch, capsys):
    monkeypatch.setattr(report, "STILL_SECONDS", 0.05)
    run = report.Report("a run")
    with run.stage("short"):
        pass
    with run.stage("long"):
        time.sleep(0.3)
    time.sleep(0.1)  # a stage that is over is quiet

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "    0.0 s  short"
    assert set(lines[1:-1]) == {"           long: still running after 0 s"}
    assert lines[-1] == "    0.3 s  long"
