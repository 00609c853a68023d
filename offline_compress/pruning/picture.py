"""A picture of how many channels every group keeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mtc_perception.util.files import replacing
from offline_compress.channels.groups import ChannelGroup

BAR_INCHES = 0.17
REMOVED, KEPT, PROTECTED = "#d9d9d9", "#0072b2", "#8c8c8c"


def draw_channels(
    path: Path,
    groups: Sequence[ChannelGroup],
    counts: Mapping[str, int],
    floors: Mapping[str, int],
    title: str,
) -> None:
    """Write a PNG: one bar per group of the unpruned network, in forward order, what it keeps dark.

    Groups absent from `counts` keep all; a line marks the floor of those that may lose channels.
    """
    figure = Figure((9.0, 1.2 + BAR_INCHES * len(groups)), layout="constrained")
    axes = figure.subplots()
    places = range(len(groups))
    kept = [counts.get(group.name, group.size) for group in groups]
    axes.barh(places, [group.size for group in groups], color=REMOVED, label="removed")
    colors = [PROTECTED if group.protected else KEPT for group in groups]
    axes.barh(places, kept, color=colors, label="kept")
    marked = [place for place, group in enumerate(groups) if not group.protected]
    axes.vlines(
        [floors[groups[place].name] for place in marked],
        [place - 0.4 for place in marked],
        [place + 0.4 for place in marked],
        color="#d55e00",
        label="fewest",
    )
    widest = max(group.size for group in groups)
    for place, (group, count) in enumerate(zip(groups, kept, strict=True)):
        note = group.protected or f"{count} of {group.size}"
        axes.text(group.size + 0.01 * widest, place, note, va="center", fontsize=6)
    axes.set_yticks(places, [group.name for group in groups], fontsize=6)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * widest)
    axes.set_xlabel("channels")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
