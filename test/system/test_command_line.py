"""How the command-line programs end, whichever of them it is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtc_perception.util.command_line import LAUNCHERS_FILE

PROGRAM = """
import time, typer
from mtc_perception.util.command_line import run_app
from mtc_perception.util.errors import BundleError
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")

@app.command()
def program(how: str) -> None:
    '''Ends.

    A paragraph whose first line is short
    and goes on in another.
    '''
    if how == "mistake":
        raise BundleError("road.mtc: no such bundle")
    if how == "folder":
        open("/")
    if how == "bug":
        raise ValueError("nobody expects this")
    if how == "library":
        import nobody_has_this.either
    if how == "our own":
        import mtc_perception.nothing
    print("ready", flush=True)
    time.sleep(60)

run_app(app, extra="offline")
"""


def start(how: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_help_fills_its_lines() -> None:
    told, _ = start("--help", COLUMNS="80", TERM="dumb").communicate(timeout=60)
    assert " A paragraph whose first line is short and goes on in another." in told


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("mistake", "error: road.mtc: no such bundle\n"),
        ("folder", "error: /: Is a directory\n"),
        (
            "library",
            "error: nobody_has_this is not installed: pip install 'mtc_perception[offline]'\n",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(how: str, line: str) -> None:
    program = start(how)
    output, errors = program.communicate(timeout=60)
    assert (program.returncode, output, errors) == (2, "", line)


def test_a_launcher_of_several_processes_tells_the_line(tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    file = tmp_path / "error.json"
    start("mistake", **{LAUNCHERS_FILE: str(file)}).communicate(timeout=60)
    report = ChildFailedError("cli", {0: ProcessFailure(0, 1, 2, str(file))}).format_msg()
    assert "traceback : error: road.mtc: no such bundle" in report


@pytest.mark.parametrize(
    ("how", "words"),
    [("bug", "ValueError: nobody expects this"), ("our own", "No module named 'mtc_perception.")],
)
def test_a_bug_keeps_its_traceback(how: str, words: str) -> None:
    program = start(how)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "Traceback" in errors
    assert words in errors


def test_ctrl_c_is_exit_130_without_a_traceback() -> None:
    program = start("wait")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "Traceback" not in errors
