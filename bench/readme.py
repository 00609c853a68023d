"""`python -m bench.readme`: write docs/benchmarks.md, the README's table and the times of the tour
from results/*.json."""

import sys
from pathlib import Path

from bench.model_card import bundles, points, set_words, spread
from bench.peers_accuracy import FIGURES as UNTHRESHOLDED
from bench.shipped import NAME as SHIPPED
from bench.shipped import PRECISIONS, TEACHERS
from bench.study import brief, headline, markdown, study_values, write_pictures
from bench.tables import read_results, render, with_numbers
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.study.comparison import FIGURES

README = Path("README.md")
BENCHMARKS = Path("docs/benchmarks.md")
TOUR = Path("docs/tour.md")
EVALUATED = ("mtc_xs_tuned", "mtc_s", "rmt_ppad_n")
"""Networks of earlier recipes with a committed `metrics.json` of `mtc-compress evaluate`."""
_RESULTS = (
    *EVALUATED,
    "compression",
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
    """The README's tables as Markdown, from the committed results alone."""
    found = read_results(results, _RESULTS)
    peers = [one for one in found["engines"]["peers"]["networks"] if one["tasks"] == "all three"]
    return render(
        "readme.md.j2",
        **found,
        bundles=bundles(results),
        accuracy=markdown(accuracy_table(results)),
        study=headline(results),
        peer=min(peers, key=lambda one: min(one["openvino_ms"])),
    )


def accuracy_table(results: Path) -> TextTable:
    """Every bundle in fp32 on every data set, each figure with its change against the teacher."""
    [found] = read_results(results, (SHIPPED,)).values()
    rows = []
    for bundle in TEACHERS:
        network = found["networks"][f"{bundle} {PRECISIONS[0]}"]
        for name, figures in network["sets"].items():
            cells = []
            for figure in FIGURES:
                one = figures.get(figure.name)
                cells.append(f"{spread(one)}; {points(one['change'])}" if one else "")
            rows.append([f"`{bundle}`, {set_words(name, found['sets'][name])}", *cells])
    return TextTable("", ["", *map(brief, FIGURES)], [rows])


def benchmarks(results: Path) -> str:
    """docs/benchmarks.md, from the committed results alone."""
    found = read_results(results, _RESULTS)
    evaluated = {name: found[name] for name in EVALUATED}
    return render(
        "benchmarks.md.j2",
        **found,
        **study_values(results),
        bundles=bundles(results),
        models=" ".join(f"--model models/{name}.mtc" for name in TEACHERS),
        evaluated=evaluated,
        figures=UNTHRESHOLDED,
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
