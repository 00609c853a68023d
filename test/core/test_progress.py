"""What is shown of work that takes its time."""

import io
import re

import pytest
from rich.console import Console

from mtc_perception.util import progress as shown
from mtc_perception.util.progress import Progress


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def last_drawn(console: Console) -> str:
    return next(line for line in reversed(text(console).splitlines()) if "/" in line)


def test_a_terminal_has_bars_of_several_works_with_rate_and_time_left() -> None:
    terminal = console(True)
    with Progress(keep=True, console=terminal) as progress:
        for done in range(3):
            progress.count("front [left]", done, 4, unit="img")
            progress.count("rear", done, None, "slow")
        progress.count("share", 0.5, 1)
    last = text(terminal).splitlines()
    first, second, third = (
        next(line for line in reversed(last) if name in line)
        for name in ("front [left]", "rear", "share")
    )
    assert all(part in first for part in ("2/4", "img/s", "0:00:0"))
    assert all(part in second for part in ("2", "slow"))
    assert "50%" in third


def test_elsewhere_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = console(False)
    with Progress(console=pipe) as progress:
        progress.count("drawing", 0, 10)
        assert text(pipe) == ""
        monkeypatch.setattr(shown, "LINE_EVERY_S", 0.0)
        for done in range(1, 4):
            progress.count("drawing", done, 10, "well", unit="img")
    last = text(pipe).splitlines()[-1]
    assert re.fullmatch(r"drawing 3/10 [\d.]+ img/s 0:00:0\d left well", last), last


def test_alone_the_bar_of_the_work_before_goes() -> None:
    terminal = console(True)
    with Progress(keep=True, alone=True, console=terminal) as progress:
        progress.count("scoring", 1, 2)
        progress.count("cutting", 1, 3)
        progress.count("cutting", 2, 3)
    *_, last = text(terminal).split("\x1b[2K")  # since lines were erased
    assert "2/3" in last
    assert "scoring" not in last


def test_items_are_counted_when_they_are_done() -> None:
    terminal = console(True)
    with Progress(keep=True, console=terminal) as progress:
        assert list(progress.track(["a", "b"], "reading")) == ["a", "b"]
        progress.done("writing")
    assert "2/2" in last_drawn(terminal)


def test_a_work_that_is_over_has_no_bar() -> None:
    terminal = console(True)
    with Progress(keep=True, console=terminal) as progress:
        progress.count("validating", 1, 2)
        progress.done("validating")
        progress.line("epoch 1 [done]")
        progress.count("validating", 0, 2)
    assert "0/2" in last_drawn(terminal)
    assert "epoch 1 [done]" in text(terminal)


def test_what_is_not_shown_says_nothing() -> None:
    terminal = console(True)
    with Progress(shown=False, console=terminal) as progress:
        progress.count("training", 1, 2)
        progress.line("epoch 1")
    assert text(terminal) == ""
