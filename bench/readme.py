"""`python -m bench.readme`: write docs/benchmarks.md, the README's table and the times of the tour
from results/*.json."""

import sys
from pathlib import Path

from bench.study import headline, study_values, write_pictures
from bench.tables import read_results, render, with_numbers
from mtc_perception.metrics.figures import BRIEF, HEADLINES

README = Path("README.md")
BENCHMARKS = Path("docs/benchmarks.md")
TOUR = Path("docs/tour.md")
EVALUATED = ("mtc_nano", "mtc_xs_tuned", "mtc_s", "rmt_ppad_n")
"""Networks with a committed `metrics.json` of `mtc-compress evaluate` on CamVid `val`."""
_RESULTS = (
    *EVALUATED,
    "compression",
    "compression_mtc_nano",
    "compression_rmt_ppad_n",
    "end_to_end",
    "engines",
    "jpeg",
    "parts",
    "replay",
    "teacher",
    "tensorrt",
    "training",
)


def readme_table(results: Path) -> str:
    """The README's table as Markdown, from the committed results alone."""
    found = read_results(results, _RESULTS)
    [shipped] = found["compression_mtc_nano"]["settings"]
    peers = [one for one in found["engines"]["peers"]["networks"] if one["tasks"] == "all three"]
    return render(
        "readme.md.j2",
        **found,
        shipped=shipped,
        study=headline(results),
        peer=min(peers, key=lambda one: min(one["openvino_ms"])),
    )


def benchmarks(results: Path) -> str:
    """docs/benchmarks.md, from the committed results alone."""
    found = read_results(results, _RESULTS)
    evaluated = {name: found[name] for name in EVALUATED}
    return render(
        "benchmarks.md.j2",
        **found,
        **study_values(results),
        evaluated=evaluated,
        headlines=HEADLINES,
        brief=BRIEF,
    )


def tour_table(results: Path) -> str:
    """The times of docs/tour.md as Markdown, from the committed result alone."""
    return render("tour.md.j2", **read_results(results, ["compression_mtc_tour"]))


def main() -> int:
    """Rewrite the pages in the working directory; 2 if a result is missing."""
    results = Path("results")
    try:
        table, page, times = readme_table(results), benchmarks(results), tour_table(results)
    except FileNotFoundError as error:
        print(f"error: {error.filename} is missing: measure it first", file=sys.stderr)
        return 2
    README.write_text(with_numbers(README.read_text(), table, "bench.readme"))
    BENCHMARKS.write_text(page)
    TOUR.write_text(with_numbers(TOUR.read_text(), times, "bench.readme"))
    write_pictures(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
