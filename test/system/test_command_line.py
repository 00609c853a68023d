"""How the command-line programs end, whichever of them it is."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import time, typer
from mtc_perception.util.command_line import run_app
from mtc_perception.util.errors import BundleError
app = typer.Typer(pretty_exceptions_enable=False)

@app.command()
def program(how: str) -> None:
    if how == "mistake":
        raise BundleError("road.mtc: no such bundle")
    if how == "folder":
        open("/")
    if how == "bug":
        raise ValueError("nobody expects this")
    print("ready", flush=True)
    time.sleep(60)

run_app(app)
"""


def start(how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("mistake", "error: road.mtc: no such bundle\n"),
        ("folder", "error: [Errno 21] Is a directory: '/'\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(how: str, line: str) -> None:
    program = start(how)
    output, errors = program.communicate(timeout=60)
    assert (program.returncode, output, errors) == (2, "", line)


def test_a_bug_keeps_its_traceback() -> None:
    program = start("bug")
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "Traceback" in errors
    assert "ValueError: nobody expects this" in errors


def test_ctrl_c_is_exit_130_without_a_traceback() -> None:
    program = start("wait")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "Traceback" not in errors
