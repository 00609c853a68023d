"""`python -m bench.ablation MATRIX.yaml`: many compression runs that differ in a few fields.

Every row and seed is one `mtc-compress run` in a process of its own, in
runs/ablation/MATRIX/ROW-sSEED; the page that compares them is out/ablation/MATRIX.html. The same
command goes on where it was stopped: every run is started, and skips what it has done before. A row
that fails is reported at the end, and the others go on.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError
from rich.console import Console
from rich.text import Text

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Progress
from mtc_perception.util.strict import Strict
from offline_compress.pipeline.folder import LOG_FILE
from offline_compress.recipe.recipe import changes_of, load_recipe
from offline_compress.report.compression_report import settings_tables, terminal_table, write_report
from offline_compress.report.compression_rows import compression_json, read_rows, settings_of

MTC_COMPRESS = (sys.executable, "-m", "offline_compress.cli")
RUNS, PAGES = Path("runs/ablation"), Path("out/ablation")
LOOK_EVERY_S = 1.0

Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class MatrixRow(Strict):
    """One setting."""

    name: Name
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe by dotted name, as `mtc-compress run --set` takes them."""
    seeds: Seeds | None = None
    """None: those of the matrix."""


class Matrix(Strict):
    """Settings to compare, over one recipe."""

    name: Name
    recipe: Path
    set: dict[str, Any] = Field(default_factory=dict)
    """Of every row."""
    seeds: Seeds = Field(default_factory=lambda: [0])
    rows: Annotated[list[MatrixRow], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Job:
    """One row with one seed."""

    name: str
    folder: Path
    arguments: list[str]
    """Of `mtc-compress`."""


def load_matrix(path: Path) -> Matrix:
    """Read and validate a matrix. Raises UserError."""
    try:
        return Matrix.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path}: {'; '.join(wrong)}") from None


def jobs_of(matrix: Matrix) -> list[Job]:
    """All runs of a matrix. Raises UserError for a row whose recipe would be refused, and for two
    that are the same."""
    names = [row.name for row in matrix.rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two rows have the name {twice.pop()}")
    jobs = []
    known: dict[str, str] = {}
    for row in matrix.rows:
        for seed in row.seeds or matrix.seeds:
            changes = matrix.set | row.set | {"compress.seed": seed}
            texts = changes_of(changes)
            name = f"{row.name}-s{seed}"
            recipe = load_recipe(matrix.recipe, texts).model_dump_json()
            if recipe in known:
                raise UserError(f"{name} is the same run as {known[recipe]}")
            known[recipe] = name
            folder = RUNS / matrix.name / name
            # A row that does not keep its budget is a result, too.
            arguments = ["run", "--redo", "--allow-missed", "--recipe", str(matrix.recipe)]
            for text in texts:
                arguments += ["--set", text]
            jobs.append(Job(name, folder, [*arguments, "--out", str(folder)]))
    return jobs


def run_jobs(jobs: Sequence[Job], program: Sequence[str], console: Console) -> dict[str, str]:
    """Run all, one after the other; the reason of every failure, by name."""
    failures: dict[str, str] = {}
    begin = time.monotonic()
    for number, job in enumerate(jobs):
        job_begin = time.monotonic()
        eta = ""
        if number:
            seconds = (job_begin - begin) / number * (len(jobs) - number)
            eta = f", {timedelta(seconds=round(seconds))} left"
        place = f"[{number + 1}/{len(jobs)}]"
        console.print(f"{place} {job.name}{eta}", highlight=False, markup=False)
        reason = _run(job, program, console)
        took = timedelta(seconds=round(time.monotonic() - job_begin))
        if reason:
            failures[job.name] = reason
        words = f"failed after {took}: {reason}" if reason else f"done in {took}"
        console.print(f"{place} {job.name}: {words}", highlight=False, markup=False)
    return failures


def _run(job: Job, program: Sequence[str], console: Console) -> str:
    """Run one job; empty, or in one line why it failed. Ctrl-C stops it, saved."""
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / LOG_FILE
    with log.open("ab") as file:
        process = subprocess.Popen([*program, *job.arguments], stdout=file, stderr=file)
    try:
        with console.status("") as status:
            while process.poll() is None:
                status.update(Text(_last_line(log)))
                time.sleep(LOOK_EVERY_S)
    except BaseException:
        # A terminal has sent Ctrl-C to both already; a second signal of the same kind is harmless.
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if process.returncode:
        return f"exit code {process.returncode}: {_last_line(log)} (see {log})"
    return ""


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def main(arguments: Sequence[str] | None = None, program: Sequence[str] = MTC_COMPRESS) -> int:
    """0, 1 if a run failed, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablation",
        description="Compress one network in many ways and compare them; the same command resumes.",
    )
    parser.add_argument("matrix", type=Path, help="YAML, see config/ablations/")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        matrix = load_matrix(options.matrix)
        jobs = jobs_of(matrix)
        failures = run_jobs(jobs, program, console)
        finished = [job.folder for job in jobs if job.name not in failures]
        if finished:
            finished, rows = read_rows(finished, lambda line: print(line, file=sys.stderr))
            page = PAGES / f"{matrix.name}.html"
            with Progress(alone=True) as progress:
                write_report(page, finished, rows, progress.count)
            for table in settings_tables(settings_of(rows)):
                console.print(terminal_table(table))
            console.print(f"{page}", highlight=False)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomic(options.json, json.dumps(compression_json(rows), indent=2) + "\n")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
