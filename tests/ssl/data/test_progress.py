"""What a person sees of a preparation."""

from __future__ import annotations

import io
import time

import pytest

from rlgym.ssl.data import progress


def test_lines_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    with progress.bar() as report:
        for second in range(12):
            clock = float(second)
            report("reading text", second * 1_000_000, 20_000_000)
        clock = 20.0
        report("counting", 1_234, 0)
    assert capsys.readouterr().err.splitlines() == [
        "reading text: 25% 5.0M/20.0M",
        "reading text: 50% 10.0M/20.0M",
        "counting: 1.2K",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "DRAW_EVERY", 0.0)
    with progress.bar() as report:
        report("reading text", 500_000, 1_000_000)
        report("training the tokenizer", 10, 0)
    drawn = terminal.getvalue()
    assert "reading text" in drawn and "50%" in drawn and "500.0K/1.0M" in drawn
    assert "training the tokenizer" in drawn
