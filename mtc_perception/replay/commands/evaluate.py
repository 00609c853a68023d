"""`mtc-replay evaluate`: recordings through a bundle, scored and checked against limits."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mtc_perception.util.errors import UserError

_RECORDING = "Recording"
_LABELS = "Labels"
_NETWORK = "Network"
_LIVE = "Live"
_MANY = "Many recordings"


def evaluate(
    bags: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BAG...",
            help="rosbag2 (folder, .mcap or .db3), video file or image folder; may be several.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Network to run.", rich_help_panel=_NETWORK),
    ] = None,
    scenario: Annotated[
        Path | None,
        typer.Option(help="YAML file with bags, options and limits, in place of BAG...."),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            help="Camera topic of a bag; may be repeated. Default: every camera.",
            rich_help_panel=_RECORDING,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Only so much of the beginning of each recording.",
            rich_help_panel=_RECORDING,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Frame rate of image folders (30), or to take a video at.",
            rich_help_panel=_RECORDING,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Data set with the labels, or its ROOT/images/SPLIT; matched by stamp or name.",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    truth_detections: Annotated[
        str | None,
        typer.Option(
            help="Topic of labelled boxes (Detection2DArray); default: found by its name.",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    truth_drivable: Annotated[
        str | None,
        typer.Option(
            help="Topic of labelled drivable areas (mono8 Image).", rich_help_panel=_LABELS
        ),
    ] = None,
    truth_lane: Annotated[
        str | None,
        typer.Option(help="Topic of labelled lane lines (mono8 Image).", rich_help_panel=_LABELS),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to agree with, as a student with its teacher.", rich_help_panel=_LABELS
        ),
    ] = None,
    engine: Annotated[
        Literal["auto", "tensorrt", "openvino", "onnxruntime"] | None,
        typer.Option(help="Inference runtime; default: auto.", rich_help_panel=_NETWORK),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Default: the bundle's preference.", rich_help_panel=_NETWORK),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of a CPU engine.", rich_help_panel=_NETWORK),
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Play to the real node over DDS, as the recording went, and see what comes back.",
            rich_help_panel=_LIVE,
        ),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Playing speed, 1 is real time (default).", rich_help_panel=_LIVE
        ),
    ] = None,
    max_frame_age_ms: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The node's parameter: older images are stale; 0 is no limit (default).",
            rich_help_panel=_LIVE,
        ),
    ] = None,
    transport: Annotated[
        Literal["raw", "compressed"] | None,
        typer.Option(
            help="Play as a camera does that publishes now, in this form; default: as recorded.",
            rich_help_panel=_LIVE,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="So many streams at once, here.", rich_help_panel=_MANY),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="As many streams at once as the Ray cluster there has processors for.",
            rich_help_panel=_MANY,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; default: out/replay/BUNDLE[_SCENARIO][_live]."),
    ] = None,
    annotate: Annotated[
        bool,
        typer.Option(
            "--annotate", help="Write a bag per stream with the answers, for Foxglove and RViz."
        ),
    ] = False,
    video: Annotated[
        bool, typer.Option("--video", help="Write a video per stream with the answers.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replay what an earlier try has done as well.")
    ] = False,
) -> None:
    """Replay recordings through a bundle, one image after the other, and score the answers.

    Every image is read from the file and answered, however long that takes, so that two runs give
    the same results to the last bit. What an interrupted run has finished is not done again.

    Exit code: 0 good, 1 a limit failed or a stream could not be evaluated, 2 no stream could be or
    a mistake in what was asked for.

    With labels in the bag: [bold]mtc-replay evaluate drive.mcap -b models/mtc_nano.mtc[/bold]

    Labels in a folder: [bold]mtc-replay evaluate drive/ -b student.mtc --labels data/val[/bold]

    No labels: [bold]mtc-replay evaluate a.mcap b.mcap -b student.mtc --reference
    teacher.mtc[/bold]

    In CI: [bold]mtc-replay evaluate --scenario nightly.yaml[/bold]

    As it drives: [bold]mtc-replay evaluate drive.mcap -b student.mtc --live[/bold]
    """
    from rich.console import Console

    from mtc_perception.replay.recordings.bag_labels import TruthTopics
    from mtc_perception.replay.run.evaluation import evaluate_run
    from mtc_perception.replay.run.plan import Options, Recording, default_run_folder
    from mtc_perception.replay.run.runners import choose_runner, threads_each
    from mtc_perception.replay.run.scenario import Scenario, read_scenario
    from mtc_perception.replay.terminal import RunProgress, show_result
    from mtc_perception.util.progress import Progress

    truth = TruthTopics(truth_detections, truth_drivable, truth_lane)
    recordings = [
        Recording(path, tuple(topic or ()), truth if truth.names() else None, labels, fps)
        for path in bags or ()
    ]
    wanted: Scenario | None = None
    if scenario is not None:
        if bags or topic or labels or fps or truth.names():
            raise UserError("a scenario names its recordings and labels itself: leave out others")
        wanted = read_scenario(scenario)
        recordings = wanted.recordings()
    if not recordings:
        raise UserError("give BAG... or --scenario")
    network = bundle or (wanted.bundle if wanted else None)
    if network is None:
        raise UserError("give the network to run: --bundle" + (" or bundle:" if wanted else ""))

    def chosen(name: str, given: Any) -> dict[str, Any]:
        """What was given, else what the scenario says, else the default."""
        if given is None and wanted is not None:
            given = getattr(wanted, name)
        return {} if given is None else {name: given}

    options = Options(
        bundle=network,
        **chosen("engine", engine),
        **chosen("precision", precision),
        **({"threads": threads_each(workers, ray)} | chosen("threads", threads)),
        **chosen("reference", reference),
        **chosen("seconds", seconds),
        **chosen("mode", "live" if live else None),
        **chosen("rate", rate),
        **chosen("max_frame_age_ms", max_frame_age_ms),
        transport=transport,
        annotate=annotate,
        video=video,
    )
    runner = choose_runner(options.mode, workers, ray)
    if options.mode != "live" and (rate or max_frame_age_ms):
        raise UserError("--rate and --max-frame-age-ms are for --live")
    if options.mode != "live" and transport:
        raise UserError("--transport is for --live")
    name = wanted.name if wanted else None
    run = out or default_run_folder(network, name, options.mode)
    with Progress(keep=True) as progress:
        result = evaluate_run(
            recordings,
            options,
            run,
            runner,
            RunProgress(progress),
            name=name,
            limits=wanted.all_limits() if wanted else (),
            fresh=fresh,
        )
    console = Console()
    show_result(console, result)
    print(f"wrote {run / 'result.json'} and {run / 'index.html'}")
    if result["passed"] is False or result["failed"]:
        raise typer.Exit(1)
