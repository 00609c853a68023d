"""`python -m bench.readme`: write the numbers in README.md anew from results/*.json."""

import json
import sys
from pathlib import Path
from typing import Any

BEGIN = "<!-- numbers: written by `python -m bench.readme` -->\n"
END = "<!-- end of numbers -->\n"


def numbers(results: Path) -> str:
    """The README's numbers as Markdown, from the committed results alone."""
    engines, end_to_end, accuracy = (
        json.loads((results / f"{name}.json").read_text())
        for name in ("engines", "end_to_end", "mtc_nano")
    )
    return "\n".join([*_accuracy(accuracy), "", *_speed(engines), "", *_way(end_to_end), ""])


def rewritten(readme: str, block: str) -> str:
    """`readme` with the text between the two marks replaced by `block`."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{block}{END}{tail}"


def machine(result: dict[str, Any]) -> str:
    """The machine a result was measured on, in words."""
    one = result["machine"]
    return f"{one['cpu']}, {one['cores']} cores"


def _accuracy(result: dict[str, Any]) -> list[str]:
    detection, drivable, lane = (result[task] for task in ("detection", "drivable", "lane"))
    return [
        f"`mtc_nano` on CamVid `val` ({result['data']['images']} images; per-image averages for "
        "masks): `mtc-compress evaluate`",
        "",
        "| vehicle recall | vehicle mAP50 | drivable mIoU | lane IoU | parameters | GMACs |",
        "|---|---|---|---|---|---|",
        f"| {detection['recall']:.3f} | {detection['map50']:.3f} | {drivable['miou']:.3f} "
        f"| {lane['iou']:.3f} | {result['params'] / 1e6:.2f} M | {result['gmacs']:.2f} |",
    ]


def _speed(result: dict[str, Any]) -> list[str]:
    openvino, ort = (
        result["engines"][name]["latency_ms"]["p50"] for name in ("openvino", "onnxruntime")
    )
    peers = result["peers"]
    lines = [
        f"Bare engine at {result['input']}, batch 1, fp32, median ms (`make bench`; "
        f"{machine(result)}):",
        "",
        "| network | tasks | parameters | OpenVINO | ONNX Runtime |",
        "|---|---|---|---|---|",
        f"| **mtc_nano** | all three | {result['params'] / 1e6:.2f} M | **{openvino:.1f}** "
        f"| {ort:.1f} |",
    ]
    for peer in peers["networks"]:
        times = (_range(peer["openvino_ms"]), _range(peer["onnxruntime_ms"]))
        lines.append(
            f"| {peer['name']} | {peer['tasks']} | {peer['params_m']:g} M "
            f"| {times[0]} | {times[1]} |"
        )
    return [*lines, "", f"Peers: {peers['conditions']}."]


def _way(result: dict[str, Any]) -> list[str]:
    way = result["latency_ms"]["end_to_end"]
    targets = result["targets"]
    return [
        f"End to end, {result['input']}: image stamp to the last output received by another "
        f"process (`make bench`; {machine(result)}): p50 {way['p50']:.1f} ms, "
        f"p95 {way['p95']:.1f} ms, p99 {way['p99']:.1f} ms. "
        + " ".join(
            f"{name.capitalize()}: {one['words']}{'' if one['met'] else ' (missed)'}."
            for name, one in targets.items()
        ),
    ]


def _range(values: list[float]) -> str:
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def main() -> int:
    """Rewrite README.md in the working directory."""
    path = Path("README.md")
    path.write_text(rewritten(path.read_text(), numbers(Path("results"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
