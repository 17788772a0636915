"""Fault 22 and the rest of what a terminal, a narrow one, a pipe and a broken pipe get to see."""

from __future__ import annotations

import io
import os
import re
import sys
import time

import pytest

from rlgym.training import progress
from rlgym.training.budgets import Budget
from rlgym.training.progress import Plain, Quiet, Rich, duration, make_display

pty = pytest.importorskip("pty")


def of(done: int, total: int) -> Budget:
    return Budget("steps", "steps", done, total)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def show_on_terminal(columns: int, mode: str, code: str = "") -> str:
    """What reaches a real (pseudo) terminal of so many columns, from a process of its own."""
    import fcntl
    import struct
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.environ.pop("COLUMNS", None)
            os.environ["TERM"] = "xterm"
            for name, number in (("stdout", 1), ("stderr", 2)):
                setattr(sys, name, os.fdopen(os.dup(number), "w"))
            shown = make_display(mode, "ppo on CartPole-v1 [seed 1]", "steps", "eval/mean_reward")
            shown.start()
            for step in range(1, 101):
                metrics = {"rollout/ep_rew_mean": step / 2, "eval/mean_reward": 100.0}
                shown.update(step * 10_000, metrics, step / 100, of(step * 10_000, 1_000_000), 100 - step)
            shown.message("a [MASK] message")
            shown.finish(["done", "in runs/x"])
            os._exit(0)
        except BaseException:
            os._exit(1)
    output = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end has closed
            break
        if not part:
            break
        output += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    return output.decode()


def test_a_wide_terminal_gets_a_live_line_that_fits() -> None:
    for columns in (70, 80, 200):
        output = show_on_terminal(columns, "auto")
        assert "\x1b[" in output
        lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output))
        assert all(len(line) <= columns for line in lines)
        assert any("100%  1,000,000/1,000,000 steps  return 50" in line for line in lines)
        assert any("a [MASK] message" in line for line in lines)
        assert lines[-3:] == ["done", "in runs/x", ""]
        assert output.rstrip().rfind("\x1b[?25h") > output.rfind("\x1b[?25l"), "the cursor is visible again"


def test_fault_22_a_narrow_terminal_gets_plain_lines_that_fit() -> None:
    for columns in (30, 60):
        output = show_on_terminal(columns, "auto")
        assert "\x1b" not in output and "done" in output
        progress = [line for line in output.splitlines() if "/1,000,000" in line]
        assert progress and all(len(line) < max(columns, 32) for line in progress)


def test_fault_22_not_a_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    shown = make_display("auto", "ppo on CartPole-v1", "steps", "eval/mean_reward")
    assert isinstance(shown, Plain)
    shown.start()
    for step in range(10, 1001, 10):  # eight updates a second for 12.5 seconds
        clock.now += 0.125
        shown.update(step, {"rollout/ep_rew_mean": step / 10}, step / 100, of(step, 1000), (1000 - step) / 100)
    shown.message("early stop")
    shown.finish(["final", "lines"])
    out, err = capsys.readouterr()
    assert out == "final\nlines\n"
    assert "\x1b" not in err and "\r" not in err
    first, *progress, message, last = err.splitlines()
    assert first == "ppo on CartPole-v1" and message == "early stop"
    assert len(progress) == 7, "one every two seconds"
    assert progress[1] == " 17%  170/1,000 steps  return 17  ETA 0:08  100 steps/s"
    assert last.startswith("100%  1,000/1,000 steps  return 100  ETA 0:00")


@pytest.mark.parametrize(
    ("step", "metrics", "lead", "line"),
    [
        (9, {"train/loss": 2.5}, Budget("tokens", "tokens", 9, 10), " 90%  9/10 tokens  loss 2.5"),
        (9, {"train/loss": 2.5, "validation/loss": 3}, None, "loss 2.5  validation loss 3"),
        (9, {"train/loss": 2.5, "rollout/reward_mean": 0.5, "eval/reward_mean": 1}, None, "reward 0.5"),
        (72_704, {}, Budget("minutes", "minutes", 1.002, 1.0), "100%  72,704 tokens  1/1 minutes"),
        (72_704, {}, Budget("minutes", "minutes", 0.6, 2.5), " 24%  72,704 tokens  0.6/2.5 minutes"),
        (512, {}, Budget("updates", "updates", 3, 4), " 75%  512 tokens  3/4 updates"),
    ],
)
def test_the_budget_that_leads_is_shown_and_the_metrics_that_move(
    step: int, metrics: dict[str, float], lead: Budget | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = make_display("plain", "t", "tokens", "validation/loss")
    shown.update(step, metrics | {"time/tokens_per_second": 1234.0}, 1.0, lead or of(step, 10), None)
    shown.close()
    said = capsys.readouterr().err.removesuffix("  1,234 tokens/s\n")
    assert said.endswith(line) if lead is None else said == line


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = make_display("quiet", "t", "steps", "eval/mean_reward")
    assert isinstance(shown, Quiet)
    shown.start()
    shown.update(1, {}, 0.1, of(1, 10), None)
    shown.message("x")
    shown.finish(["y"])
    shown.close()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_goes_away_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    for mode in ("plain", "rich"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Gone())
            patch.setattr(sys, "stdout", Gone())
            patch.setattr(progress, "DRAW_EVERY", 0.0)
            shown = make_display(mode, "t", "steps", "eval/mean_reward")
            shown.start()
            for step in range(10):
                shown.update(step, {}, step, of(step, 10), 1.0)
            shown.message("x")
            shown.finish(["y"])


def test_rich_draws_at_most_every_so_often(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown = make_display("rich", "t", "steps", "eval/mean_reward")
    assert isinstance(shown, Rich)
    shown.start()
    drawn: list[float] = []
    monkeypatch.setattr(shown, "_draw", lambda: drawn.append(clock.now))
    for step in range(1000):
        clock.now += 0.01
        shown.update(step, {}, step, of(step, 1000), None)
    assert 38 <= len(drawn) <= 41
    shown.close()


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_an_update_costs_next_to_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown = make_display(mode, "t", "steps", "eval/mean_reward")
    shown.start()
    costs = []
    for step in range(2000):
        start = time.perf_counter()
        shown.update(step, {"rollout/ep_rew_mean": 1.0}, step / 1000, of(step, 10**9), 5.0)
        costs.append(time.perf_counter() - start)
    shown.close()
    assert sorted(costs)[len(costs) // 2] < 2e-5


def test_durations() -> None:
    cases = {0: "0:00", 59.6: "1:00", 65: "1:05", 3599: "59:59", 3665: "1:01:05", 90_000: "25:00:00", -3: "0:00"}
    assert {seconds: duration(seconds) for seconds in cases} == cases
