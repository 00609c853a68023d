"""`python -m bench.readme`: write the numbers in README.md anew from results/*.json."""

import json
import sys
from pathlib import Path
from typing import Any

from offline_compress.evaluation.headlines import HEADLINES

END = "<!-- end of numbers -->\n"

EVALUATED = ("mtc_nano", "mtc_nano_tuned", "mtc_s", "rmt_ppad_n")
"""Networks with a committed `metrics.json` of `mtc-compress evaluate` on CamVid `val`."""


def numbers(results: Path) -> str:
    """The README's numbers as Markdown, from the committed results alone."""

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
        return content

    parts = [
        _accuracy({name: read(name) for name in EVALUATED}),
        _compression(read("compression"), "python -m bench.ablation config/ablations/mtc_s.yaml"),
        _variants(read("compression")),
        _compression(
            read("compression_rmt_ppad_n"),
            "mtc-compress run --recipe config/recipes/rmt_ppad_n.yaml",
        ),
        _speed(read("engines")),
        _way(read("end_to_end")),
        _replay(read("replay")),
        _tensorrt(read("tensorrt")),
        _teachers(read("teacher")),
        _training(read("training")),
    ]
    return "\n".join(line for part in parts for line in [*part, ""])


def rewritten(page: str, block: str, module: str = "bench.readme") -> str:
    """`page` with what stands between the two marks of `module` replaced by `block`."""
    begin = f"<!-- numbers: written by `python -m {module}` -->\n"
    head, found, rest = page.partition(begin)
    assert found, f"no mark of {module}"
    _, _, tail = rest.partition(END)
    return f"{head}{begin}{block}{END}{tail}"


def machine(result: dict[str, Any]) -> str:
    """The machine a result was measured on, in words."""
    one = result["machine"]
    return f"{one['cpu']}, {one['cores']} cores"


def _accuracy(results: dict[str, dict[str, Any]]) -> list[str]:
    images = {result["data"]["images"] for result in results.values()}
    lines = [
        f"Accuracy on CamVid `val` ({images.pop()} images; per-image averages for masks): "
        "`mtc-compress evaluate`",
        "",
        "| network | vehicle recall | mAP50 | drivable mIoU | lane IoU | parameters | GMACs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        detection, drivable, lane = (result[task] for task in ("detection", "drivable", "lane"))
        lines.append(
            f"| {name} | {detection['recall']:.3f} | {detection['map50']:.3f} "
            f"| {drivable['miou']:.3f} | {lane['iou']:.3f} | {result['params'] / 1e6:.2f} M "
            f"| {result['gmacs']:.2f} |"
        )
    return lines


def _compression(result: dict[str, Any], command: str) -> list[str]:
    teacher = result["teacher"]
    lines = [
        f"Students of {teacher['name']} ({teacher['params'] / 1e6:.2f} M parameters), on CamVid "
        "`val`: what remains of parameters and latency (batch 1, fp32, interleaved; "
        f"{machine(result)}), and points gained or lost; mean ± deviation over the seeds "
        f"(`{command}`; rows in docs/compression.md):",
        "",
        "| row | seeds | parameters | OpenVINO | ONNX Runtime | recall | mAP50 | drivable mIoU "
        "| lane IoU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in result["settings"]:
        shares = [setting["params_share"], *setting["latency_ratio"].values()]
        gains = [setting["points"][task][name] for task, name in HEADLINES]
        cells = [f"x {spread(one, '.2f')}" for one in shares]
        cells += [spread(one, "+.1f") for one in gains]
        lines.append(f"| {setting['name']} | {len(setting['seeds'])} | {' | '.join(cells)} |")
    return lines


def _variants(result: dict[str, Any]) -> list[str]:
    row = result["rows"][0]
    lines = [
        f"Variants of `{row['name']}` against its fp32 checkpoint, same run:",
        "",
        "| variant | engine | MB | time against fp32 | recall | mAP50 | drivable mIoU | lane IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, content in row["variants"].items():
        for engine, found in content["engines"].items():
            cells = [f"{content['bytes'] / 1e6:.1f}", f"x {found['ratio_to_fp32']:.2f}"]
            for task, name in HEADLINES:
                change = 100 * (found[task][name] - row["student"][task][name])
                cells.append(f"{change:+.1f}")
            lines.append(f"| {variant} | {engine} | {' | '.join(cells)} |")
    return lines


def spread(value: dict[str, Any] | None, form: str) -> str:
    """A mean and its deviation over the seeds, if there are several; None: undefined."""
    if value is None:
        return "undefined"
    deviation = value["deviation"]
    words = f"{value['mean']:{form}}"
    return words if deviation is None else f"{words} ± {deviation:{form.lstrip('+')}}"


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


def _replay(result: dict[str, Any]) -> list[str]:
    lines = [
        f"Replay with `{result['bundle']}` (`python -m bench.run replay`; {machine(result)}):",
        "",
        "| | measured | target |",
        "|---|---|---|",
    ]
    for part in result["parts"].values():
        for name, one in part["targets"].items():
            missed = "" if one["met"] else " (missed)"
            lines.append(f"| {name} | {one['words']} | {one['target']}{missed} |")
    notes = [f"{name}: {part['what']}." for name, part in result["parts"].items()]
    return [*lines, "", " ".join(notes)]


def _tensorrt(result: dict[str, Any]) -> list[str]:
    targets = list(result["networks"][0]["targets"])
    lines = [
        f"TensorRT-RTX {result['tensorrt_rtx']} ahead of time, without a GPU: MiB of the engine / "
        f"seconds to build (`python -m bench.run tensorrt`; {machine(result)}):",
        "",
        f"| network | {' | '.join(targets)} |",
        f"|---|{'---|' * len(targets)}",
    ]
    for row in result["networks"]:
        cells = (_build(row["targets"][target]) for target in targets)
        lines.append(f"| {row['network']} | {' | '.join(cells)} |")
    return lines


def _build(found: dict[str, Any]) -> str:
    if "refused" in found:
        return "refused"
    return f"{found['engine_mib']:.1f} / {found['seconds']:.1f}"


def _teachers(result: dict[str, Any]) -> list[str]:
    lines = [
        f"Size and speed of the teachers, batch 1, fp32, random weights, median ms (`make bench`; "
        f"{machine(result)}); `full` and `stride4` are the two mask decoders:",
        "",
        "| network | input | parameters | GFLOPs | OpenVINO | ONNX Runtime |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["networks"]:
        times = (row["latency_ms"][name]["p50"] for name in ("openvino", "onnxruntime"))
        lines.append(
            f"| {row['name']} | {row['input']} | {row['params'] / 1e6:.2f} M | {row['gflops']:.1f} "
            f"| {' | '.join(f'{time:.0f}' for time in times)} |"
        )
    original, ratios = result["original"], result["full_over_stride4"]
    for size, row in original["sizes"].items():
        spans = (_range(row["latency_ms"][name]) for name in ("openvino", "onnxruntime"))
        lines.append(
            f"| {original['name']} | {size} | {original['params_m']:g} M | {row['gflops']:g} "
            f"| {' | '.join(spans)} |"
        )
    gains = "; ".join(
        f"{size}: OpenVINO {ratio['openvino']:.2f}, ONNX Runtime {ratio['onnxruntime']:.2f}"
        for size, ratio in ratios.items()
    )
    return [
        *lines,
        "",
        f"Time of `full` over that of `stride4`, interleaved: {gains}.",
        "",
        f"{original['name']}: {original['conditions']}.",
    ]


def _training(result: dict[str, Any]) -> list[str]:
    lines = [
        f"Training, images per second (`make bench`; {result['device']}, {result['precision']}; "
        f"{machine(result)}); the loader alone must be faster than the network alone:",
        "",
        "| network | crop | batch | network alone | loader alone | training |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["models"].items():
        rates = (row[f"{part}_images_per_s"] for part in ("network", "loader", "training"))
        lines.append(
            f"| {name} | {row['crop']} | {row['batch']} "
            f"| {' | '.join(f'{rate:.1f}' for rate in rates)} |"
        )
    return lines


def _range(values: list[float]) -> str:
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def main() -> int:
    """Rewrite README.md in the working directory; 2 if a result is missing."""
    path = Path("README.md")
    try:
        block = numbers(Path("results"))
    except FileNotFoundError as error:
        print(f"error: {error.filename} is missing: measure it first", file=sys.stderr)
        return 2
    path.write_text(rewritten(path.read_text(), block))
    return 0


if __name__ == "__main__":
    sys.exit(main())
