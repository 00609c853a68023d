"""`python -m bench.replay_example`: carry out the worked example of docs/replay.md and write it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import write_result
from bench.tables import read_results, render, with_numbers

PAGE = Path("docs/replay.md")
NAME = "replay_example"
COMMANDS = (
    "mtc-compress synth bag out/drive --seconds 8 --seed 3",
    "mtc-replay evaluate out/drive --bundle models/mtc_nano.mtc --precision fp32 "
    "--out out/replay/fp32",
    "mtc-replay evaluate out/drive --bundle models/mtc_nano.mtc --precision int8 "
    "--out out/replay/int8",
    "mtc-replay compare out/replay/fp32 out/replay/int8",
)
_TIMES = "latency_ms"
"""Left out: they depend on the machine, and on what else it does."""


def example(results: Path) -> str:
    """The example as Markdown, from the committed result alone."""
    return render("replay_example.md.j2", commands=COMMANDS, **read_results(results, (NAME,)))


def carry_out(checkout: Path) -> dict[str, Any]:
    """What the commands come to, in a folder of their own."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(checkout / "models")
        for command in COMMANDS:
            print(f"$ {command}", flush=True)
            subprocess.run(shlex.split(command), cwd=folder, check=True)
        run = Path(folder) / "out" / "replay"
        (stream,) = (run / "fp32" / "streams").iterdir()
        first = json.loads((stream / "frames.jsonl").read_text().splitlines()[0])
        threshold = json.loads((run / "fp32" / "result.json").read_text())["thresholds"]["score"]
        compared = json.loads((run / "int8" / "against_fp32" / "comparison.json").read_text())
    detection = first["evidence"]["detection"]
    # Detections are in order of their scores.
    deployed = sum(score >= threshold for score in detection["scores"])
    return {
        "images": compared["images"],
        "figures": [one for one in compared["figures"] if not one["name"].startswith(_TIMES)],
        "first_image": {
            "threshold": threshold,
            "objects": detection["objects"],
            "deployed": deployed,
            "right": sum(bits & 1 for bits in detection["right"][:deployed]),
            "lane": first["evidence"]["lane"],
        },
    }


def main() -> int:
    """Run it in the working directory, and rewrite result and page."""
    results = Path("results")
    write_result(results, NAME, carry_out(Path.cwd()))
    PAGE.write_text(with_numbers(PAGE.read_text(), example(results), f"bench.{NAME}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
