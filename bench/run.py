"""`python -m bench.run`: measure, print, and write results/*.json."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.common import ends_in_one_line
from bench.end_to_end import bench_end_to_end
from bench.engines import bench_engines
from bench.host import bench_host
from bench.jpeg import bench_jpeg
from bench.replay import bench_replay
from bench.replay_parts import PARTS
from mtc_perception.core.bundle import read_bundle
from mtc_perception.node.parameters import default_bundle
from mtc_perception.replay.recordings.synthetic_drive import synthetic_bag

BENCHES = (
    "engines",
    "host",
    "end_to_end",
    "replay",
    "teacher",
    "training",
    "data_loading",
    "scoring",
    "tensorrt",
    "jpeg",
)
QUICK_S = 6.0
RECORDED_S = 10.0
"""Length of the drive that `make demo` makes as well."""


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every target was met, 1 if one was missed, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Measure the numbers of docs/benchmarks.md on this machine, which should do "
        "nothing else meanwhile.",
    )
    parser.add_argument("only", nargs="*", help=f"of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--bundle", type=Path, help="default: the shipped one")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="length of end_to_end, and of a minute of replay (%(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_const",
        dest="seconds",
        const=QUICK_S,
        help=f"--seconds {QUICK_S:g}: to see that it all works",
    )
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        default=[],
        help="of replay, may be repeated; the results keep the others; default: all",
    )
    parser.add_argument(
        "--data", type=Path, help="labelled data set of jpeg, which is left out without one"
    )
    options = parser.parse_args(arguments)
    if "jpeg" in options.only and options.data is None:
        parser.error("jpeg needs a labelled data set: --data")
    if unknown := set(options.only) - set(BENCHES):
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    wanted = options.only or BENCHES
    console = Console()
    met = True
    bundle = read_bundle(options.bundle or default_bundle())
    if "engines" in wanted:
        met = bench_engines(bundle, options.results, console)
    if "host" in wanted:
        bench_host(bundle, synthetic_bag(Path("out"), RECORDED_S), options.results, console)
    if "end_to_end" in wanted:
        bag = synthetic_bag(Path("out"), RECORDED_S)
        met = bench_end_to_end(bundle, bag, options.results, options.seconds, console) and met
    if "replay" in wanted:
        bag = synthetic_bag(Path("out"), RECORDED_S)
        results, seconds = options.results, options.seconds
        met = bench_replay(bundle, bag, results, seconds, options.part, console) and met
    if "teacher" in wanted:
        from bench.teacher import bench_teacher  # PyTorch, which the others do without

        bench_teacher(options.results, console)
    if "training" in wanted:
        from bench.training import bench_training

        bench_training(options.results, console)
    if "data_loading" in wanted:
        from bench.data_loading import bench_data_loading

        bench_data_loading(options.results, console)
    if "scoring" in wanted:
        from bench.scoring import bench_scoring

        met = bench_scoring(options.results, console) and met
    if "tensorrt" in wanted:
        from bench.tensorrt import bench_tensorrt

        bench_tensorrt(options.results, console)
    if "jpeg" in wanted and options.data is not None:
        met = bench_jpeg(bundle, options.data, options.results, console) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
