"""`python -m bench.evaluation`: write the tables of docs/evaluation.md anew from results/*.json."""

import sys
from pathlib import Path

from bench.suppression import DEPLOYED
from bench.suppression import NAME as SUPPRESSION
from bench.tables import read_results, render, rewrite, with_numbers
from bench.unseen import NAME as UNSEEN

PAGE = Path("docs/evaluation.md")


def with_tables(page: str, results: Path) -> str:
    """The page with its tables, from the committed results alone."""
    found = read_results(results, (SUPPRESSION, UNSEEN))
    rules = render("evaluation_rules.md.j2", **found[SUPPRESSION], deployed=DEPLOYED)
    page = with_numbers(page, rules, "bench.evaluation", SUPPRESSION)
    faults = render("evaluation_unseen.md.j2", **found[UNSEEN])
    return with_numbers(page, faults, "bench.evaluation", UNSEEN)


def main() -> int:
    """Rewrite the page in the working directory; 2 if a result is missing."""
    return rewrite(PAGE, with_tables)


if __name__ == "__main__":
    sys.exit(main())
