"""`mtc-compress synth`: synthetic roads as a data set or as a rosbag."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mtc_perception.util.errors import UserError

synth_app = typer.Typer(
    help="Render synthetic roads with exact labels, as a data set or as a rosbag.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_Size = Annotated[str, typer.Option(help="Image size as WIDTHxHEIGHT.")]
_Seed = Annotated[int, typer.Option(help="The same seed gives the same pictures.")]
_Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default: the CPU cores.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text.lower())
    if not match:
        raise UserError(f"--size must look like 1280x720, not {text!r}")
    return int(match[1]), int(match[2])


@synth_app.command()
def dataset(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    count: Annotated[int, typer.Option(help="Number of images.")] = 1000,
    size: _Size = "640x384",
    seed: _Seed = 0,
    val_fraction: Annotated[float, typer.Option(help="Share of the images in split val.")] = 0.0,
    workers: _Workers = None,
    overwrite: _Overwrite = False,
) -> None:
    """Write labelled images in the layout that training and evaluation read.

    An interrupted run continues when the same command is given again.

    Example: [bold]mtc-compress synth dataset out/roads --count 2000 --val-fraction 0.1[/bold]
    """
    from offline_compress.roads.road_dataset import write_dataset

    width, height = _parse_size(size)
    write_dataset(out, count, width, height, seed, val_fraction, workers, overwrite)
    print(f"wrote {count} images of {width}x{height} to {out}")


@synth_app.command()
def bag(
    out: Annotated[Path, typer.Argument(help="Bag folder to write.")],
    seconds: Annotated[float, typer.Option(help="Length of the drive.")] = 10.0,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 30.0,
    size: _Size = "1280x720",
    seed: _Seed = 0,
    workers: _Workers = None,
    overwrite: _Overwrite = False,
) -> None:
    """Write a drive as a rosbag2 (mcap): JPEG camera images and ground truth topics.

    Example: [bold]mtc-compress synth bag out/drive --seconds 10 --fps 30 --size 1280x720[/bold]
    """
    from offline_compress.roads.road_bag import write_bag

    width, height = _parse_size(size)
    write_bag(out, seconds, fps, width, height, seed, workers, overwrite)
    print(f"wrote {seconds:g} s at {fps:g} frames per second of {width}x{height} to {out}")
