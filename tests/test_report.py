"""What a run tells while it goes on."""

from __future__ import annotations

import time

from lake import report


def test_a_long_stage_says_that_it_lives_and_a_short_one_only_how_long_it_took(monkeypatch, capsys):
    monkeypatch.setattr(report, "STILL_SECONDS", 0.05)
    run = report.Report("a run")
    with run.stage("short"):
        assert capsys.readouterr().err == ""
    with run.stage("long"):
        time.sleep(0.3)
    told = capsys.readouterr().err
    assert told.splitlines()[-1].endswith(" s  long")
    assert told.count("long: still running after 0 s") >= 2
    time.sleep(0.2)
    assert capsys.readouterr().err == "", "a stage that is over is quiet"
