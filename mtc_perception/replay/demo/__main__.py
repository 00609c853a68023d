"""`python -m mtc_perception.replay.demo`: a recording through the real node, seen from outside."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mtc_perception.core.bundle import read_bundle
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.synthetic_drive import synthetic_bag
from mtc_perception.util.errors import UserError
from mtc_perception.util.interrupts import handle_interrupts

try:
    from mtc_perception.node.parameters import default_bundle
    from mtc_perception.replay.demo.report import write_report
    from mtc_perception.replay.demo.scoring import score_run
    from mtc_perception.replay.demo.summary import summarise, table
    from mtc_perception.replay.live.result import LiveConfig, LiveResult
    from mtc_perception.replay.live.run import Phase, node_files, run_live
    from mtc_perception.util.worker_process import ReplayError
except ImportError as missing:
    if not (missing.name or "").startswith(("rclpy", "ament_index", "rcl_", "vision_msgs")):
        raise
    print(
        f"error: ROS 2 is not on the path ({missing}): use `make demo`, or source "
        "tools/ros_env.sh or your ROS 2 and workspace first",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

DEFAULT_OUT = Path("out/demo")
_PHASES: dict[Phase, str] = {
    "load": "preparing images",
    "configure": "starting the node",
    "play": "playing in real time",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if it worked, 1 if the node failed, 2 for a mistake of the user's."""
    options = _parser().parse_args(arguments)
    handle_interrupts()
    try:
        run_demo(options)
    except ReplayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: everything is stopped", file=sys.stderr)
        return 130
    return 0


def run_demo(options: argparse.Namespace) -> None:
    """Play, record, score, report. Raises UserError, and ReplayError where the node fails."""
    console = Console()
    bundle = read_bundle(options.bundle or default_bundle())
    out: Path = options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder: {error.strerror}; choose --out") from None
    recording = options.input or synthetic_bag(out.parent, options.seconds)
    source = open_source(recording, options.topic, options.fps)
    config = LiveConfig(
        input=recording,
        bundle=bundle.path,
        topic=options.topic,
        fps=options.fps,
        seconds=options.seconds,
        transport=options.transport,
        parameters={"engine": options.engine},
    )
    with _progress(console) as progress, node_files(out) as scratch:
        result = run_live(config, scratch, _Phases(progress))
        frames = len(result.published)
        task = progress.add_task("scoring", total=None, amount="")
        scores = score_run(source, bundle, result, _advance(progress, task, frames))
        progress.remove_task(task)
        summary = summarise(config, bundle, result, scores)
        task = progress.add_task("drawing", total=frames, amount="")
        files = write_report(
            out,
            source,
            result,
            bundle.manifest.classes,
            summary,
            scores.agreement,
            _advance(progress, task, frames),
        )
        progress.remove_task(task)
    console.print(table(summary))
    console.print("end to end: from the image's stamp until another process has its last output")
    console.print(f"engine: {summary['engine_why']}", highlight=False)
    _explain(console, options, result, summary)
    for note in scores.notes:
        console.print(f"warning: {note}", style="yellow", soft_wrap=True, highlight=False)
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True, highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtc_perception.replay.demo",
        description="Play a recording in real time through the perception node, as its own process "
        "under real DDS, and report latency, drops, accuracy, a video and a page.",
        epilog="example: %(prog)s --input drive.mcap --out out/drive",
    )
    parser.add_argument(
        "--input",
        type=Path,
        help="rosbag2 (folder or .mcap), video file, or image folder (of a data set: "
        "<root>/images/<split>, scored against its labels); default: a synthetic drive",
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder to write (%(default)s)"
    )
    parser.add_argument("--bundle", type=Path, help="network to run; default: the shipped one")
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "tensorrt", "openvino", "onnxruntime"),
        help="inference runtime (%(default)s)",
    )
    parser.add_argument(
        "--seconds", type=_positive, default=10.0, help="play so much of the beginning (10)"
    )
    parser.add_argument("--topic", help="camera topic, for a bag with several")
    parser.add_argument(
        "--fps", type=_positive, help="frame rate of an image folder (30), or to play a video at"
    )
    parser.add_argument(
        "--transport",
        default="raw",
        choices=("raw", "compressed"),
        help="what the camera publishes: sensor_msgs/Image or JPEG (%(default)s)",
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be greater than 0, not {text}")
    return value


def _explain(
    console: Console, options: argparse.Namespace, result: LiveResult, summary: dict[str, Any]
) -> None:
    """What a reader of the table should know and might overlook."""
    played = len(result.published)
    if result.unreadable:
        console.print(
            f"not played because they cannot be read: {result.unreadable} of the recording's "
            f"images, first {result.unreadable_reason}",
            style="red",
        )
    if played + result.unreadable < result.source.frames:
        console.print(
            f"played the first {options.seconds:g} s: {played} of {result.source.frames} images "
            "(--seconds plays more)"
        )
    period_ms = 1e3 / result.source.rate_hz
    latencies = summary["latency_ms"]
    if summary["frames_dropped"] and latencies["inference"].get("p50", 0.0) > period_ms:
        console.print(
            f"images were dropped because inference takes longer than the {period_ms:.0f} ms "
            "between two of them: the node always works on the newest"
        )


class _Phases:
    """Shows the phases of a live run, one bar each."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Phase, TaskID] = {}

    def __call__(self, phase: Phase, done: float, total: float | None) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(_PHASES[phase], total=total, amount="")
        amount = f"{done:.0f} images" if phase == "load" else f"{done:.0f} s"
        self._progress.update(self._tasks[phase], completed=done, total=total, amount=amount)


def _advance(progress: Progress, task: TaskID, total: int) -> Any:
    return lambda number: progress.update(
        task, completed=number, total=total, amount=f"{number} images"
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<21}"),
        BarColumn(),
        TextColumn("{task.fields[amount]:<12}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        # Drawing the bars must not take the processor from the node under test.
        refresh_per_second=2,
    )


if __name__ == "__main__":
    sys.exit(main())
