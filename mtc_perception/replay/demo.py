"""`mtc-replay demo`: an evaluation as it drives, with a video, of a synthetic drive if need be.

`python -m mtc_perception.replay.demo` is the same command.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtc_perception.replay.flags import options_of, with_flags
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.util.command_line import run_app
from mtc_perception.util.errors import UserError
from mtc_perception.util.interrupts import handle_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from mtc_perception.replay.recordings.recording import SourceInfo

SUMMARY_FILE = "summary.json"
_SECONDS = 10.0


@with_flags(
    Recording,
    ReplayOptions,
    only=("topics", "fps", "bundle", "engine", "seconds", "transport"),
    bundle="the shipped one",
    seconds=_SECONDS,
    transport="raw",
)
def demo(
    recording: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="rosbag2 (folder or .mcap), video file, or image folder (of a data set: "
            "ROOT/images/SPLIT, scored against its labels); default: a synthetic drive.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; default: out/demo, and of an --input out/demo_INPUT."),
    ] = None,
    **given: Any,
) -> None:
    """Play a recording in real time through the perception node, as its own process under real DDS.

    This is [bold]mtc-replay evaluate --live --video --transport raw[/bold] of one camera, and a
    summary of it.

    Exit code: 0 good, 1 the node failed or answered nothing, 2 a mistake in what was asked for.
    """
    from rich.console import Console

    from mtc_perception.core.bundle import read_bundle
    from mtc_perception.replay.recordings.synthetic_drive import synthetic_bag
    from mtc_perception.replay.report.run_page import PAGE_FILE
    from mtc_perception.replay.report.views import large_objects, read_streams
    from mtc_perception.replay.results.run_result import stream_folder, unanswered_streams
    from mtc_perception.replay.run.evaluation import evaluate_run
    from mtc_perception.replay.run.runners import run_serial
    from mtc_perception.replay.stream.annotated import ANNOTATED
    from mtc_perception.replay.stream.stream import import_live
    from mtc_perception.replay.stream.video_file import find_video
    from mtc_perception.replay.terminal import RunProgress, show_result
    from mtc_perception.util.errors import ReplayError
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress

    import_live()
    from mtc_perception.node.parameters import default_bundle

    own = {"bundle": default_bundle(), "seconds": _SECONDS, "transport": "raw"}
    wanted = own | options_of(ReplayOptions, given)
    options = ReplayOptions.model_validate(wanted | {"mode": "live", "video": True})
    read_bundle(options.bundle)  # refused before a drive is rendered
    out = out or Path("out", f"demo_{recording.stem}" if recording else "demo")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder: {error.strerror}; choose --out") from None
    seconds = options.seconds or _SECONDS
    path = recording or synthetic_bag(out.parent, seconds)
    camera = Recording(path=path, **options_of(Recording, given))
    source = camera.open().info
    if source.topic is not None:
        camera = camera.model_copy(update={"topics": (source.topic,)})
    try:
        with Progress(keep=True) as progress:
            result = evaluate_run(
                [camera],
                options,
                out,
                partial(run_serial, strict=True),
                RunProgress(progress),
                fresh=True,
            )
    except ReplayError as error:  # the node's failure, no mistake of the user's
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    summary = summarise(result, source)
    write_text_atomic(out / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    console = Console()
    show_result(console, result)
    _explain(console, summary, seconds)
    if large := large_objects(read_streams(out, result)):
        console.print(large.explanation, highlight=False)
    files = [out / PAGE_FILE, out / SUMMARY_FILE]
    [stream] = result["streams"]
    if video := find_video(stream_folder(out, stream), ANNOTATED):
        files.append(video)
    for file in files:
        print(f"wrote {file}")
    if unanswered_streams(result):
        raise typer.Exit(1)


def summarise(result: Mapping[str, Any], source: "SourceInfo") -> dict[str, Any]:
    """The content of `summary.json`: the figures of a live run of one stream.

    Accuracy is that of the answers alone: an image without one is no miss.
    """
    from mtc_perception.core.tasks import TASKS
    from mtc_perception.core.timing import percentiles
    from mtc_perception.util.provenance import provenance

    [stream] = result["streams"]
    live, bundle = stream["live"], result["bundle"]
    accuracy = result.get("answered", result)
    endings = ("processed", "dropped", "stale", "malformed")
    return {
        "frames_in": live["frames_published"],
        **{f"frames_{ending}": result[f"frames_{ending}"] for ending in endings},
        "frames_received_by_node": live["frames_received_by_node"],
        "engine": result["engine"],
        "engine_why": result["engine_why"],
        "engine_degraded": live["degraded"],
        "device": result["device"],
        "precision": result["precision"],
        "latency_ms": result["latency_ms"] or {"end_to_end": percentiles(())},
        **{task: accuracy[task] for task in TASKS if task in accuracy},
        "labelled_frames": result["labelled_frames"],
        "params": result["params"],
        "gmacs": result["gmacs"],
        "thresholds": result["thresholds"],
        "node": live["node"],
        "player_late_ms_max": round(live["played_late_ms"]["max"], 2),
        "input": {
            "name": source.name,
            "kind": source.kind,
            "topic": source.topic,
            "rate_hz": round(source.rate_hz, 3),
            "frames_in_recording": source.frames,
            "frames_unreadable": result["frames_unreadable"],
            "transport": live["transport"],
        },
        "bundle": {key: bundle[key] for key in ("name", "network", "version", "sha256")},
        **provenance(),
    }


def _explain(console: "Console", summary: Mapping[str, Any], seconds: float) -> None:
    """What a reader of the table should know and might overlook."""
    console.print("end to end: from the image's stamp until another process has its last output")
    console.print(f"engine: {summary['engine_why']}", highlight=False)
    source, latencies = summary["input"], summary["latency_ms"]
    played, frames = summary["frames_in"], source["frames_in_recording"]
    if played + source["frames_unreadable"] < frames:
        console.print(
            f"played the first {seconds:g} s: {played} of {frames} images (--seconds plays more)"
        )
    period_ms = 1e3 / source["rate_hz"]
    inference_ms = latencies.get("inference", {}).get("p50", 0.0)
    if summary["frames_dropped"] and inference_ms > period_ms:
        console.print(
            f"images were dropped because inference takes longer than the {period_ms:.0f} ms "
            "between two of them: the node always works on the newest"
        )


if __name__ == "__main__":
    handle_interrupts()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(demo)
    run_app(app)
