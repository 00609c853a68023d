"""`python -m bench.peers_study PEER.mtc...`: public networks on the very frames of a study.

They stand beside the study's reference, whose evidence is on record, by its rules: images of a
drive that is held out at the score threshold that is best over the other drives, paired intervals.
What the reference has learnt they have not, and the other way round: the differences tell what a
network at hand is worth on these frames, not which architecture is better.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common import ends_in_one_line, write_result
from bench.judging import answers
from bench.tables import read_results
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Progress
from offline_compress.evaluation.subject import Subject, open_subject
from offline_compress.quantization.assess import FP32
from offline_compress.study.comparison import (
    Answers,
    compare,
    cross_fitted,
    parts_of,
)
from offline_compress.study.folds import HELD_OUT, folds_of, judged_sets
from offline_compress.study.run import Chosen, answers_on_record, judged_on
from offline_compress.study.study import Study, load_study

NAME = "peers_study"
Sets = Mapping[str, Sequence[Answers]]
"""What a network, or those of all folds, say about every set, fold by fold."""


def peers_study(peers: Mapping[str, Subject], chosen: Chosen, progress: Progress) -> dict[str, Any]:
    """The lines of a study's tables with its reference and public networks alone.

    Raises UserError if the reference is not on record, or was judged on other images.
    """
    study = chosen.study
    own = [one for one in chosen.networks() if one.row == study.reference]
    reference = list(answers_on_record(study, own)[study.reference].values())
    found = {name: _answers(subject, name, chosen, progress) for name, subject in peers.items()}
    seeds: dict[str, list[Sets]] = {study.reference: [*reference]}
    seeds |= {name: [sets] for name, sets in found.items()}
    limits = {row: [cross_fitted(one[HELD_OUT]) for one in of] for row, of in seeds.items()}
    lines = []
    for name in (HELD_OUT, *study.further_sets):
        first = reference[0][name]
        for peer, sets in found.items():
            if [one.stems for one in sets[name]] != [one.stems for one in first]:
                raise UserError(f"{peer} and {study.reference} were judged on other images: {name}")
        rows = {
            row: [judged_on(name, *one) for one in zip(of, limits[row], strict=True)]
            for row, of in seeds.items()
        }
        title = study.held_out.root.resolve().name if name == HELD_OUT else name
        of_set = first if name == HELD_OUT else first[:1]
        lines += [compare(part, rows, study.reference, {}) for part in parts_of(title, of_set)]
    return {
        "study": study.name,
        "folds": chosen.drives,
        "reference": study.reference,
        "networks": {
            name: {"sha256": one.identity["sha256"], "params": one.params, "gmacs": one.gmacs}
            for name, one in peers.items()
        },
        "thresholds": {name: limits[name][0] for name in peers},
        "lines": lines,
    }


def _answers(subject: Subject, name: str, chosen: Chosen, progress: Progress) -> Sets:
    """What a public network says. On further sets, whose images are the same in all folds, it is
    asked once."""
    study, found = chosen.study, dict[str, list[Answers]]()
    for fold in folds_of(study.held_out):
        if fold.drive not in chosen.drives:
            continue
        for title, samples in judged_sets(study, fold, subject.class_map).items():
            known = found.setdefault(title, [])
            if known and title != HELD_OUT:
                known.append(replace(known[0], drive=fold.drive))
            else:
                words = f"{name} on {fold.drive if title == HELD_OUT else title}"
                counted = progress.track(samples, words, unit="img")
                known.append(answers(subject, counted, fold.drive))
    return found


def chosen_of(study: Study, record: Path, results: Path) -> Chosen:
    """The drives that the committed tables of a study report, with its reference alone."""
    [tables] = read_results(results, [f"study_{study.name}"]).values()
    return Chosen.of(study, record, tables["folds"], [study.reference])


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{NAME}",
        description="Public networks on the drives that a study reports, beside its reference.",
    )
    parser.add_argument(
        "peers", type=Path, nargs="+", help="bundles of others, made by `mtc-compress wrap`"
    )
    parser.add_argument(
        "--study", type=Path, default=Path("config/studies/camvid.yaml"), help="(%(default)s)"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    study = load_study(options.study)
    record = options.results / "studies" / study.name
    chosen = chosen_of(study, record, options.results)
    subjects = [open_subject(path, precision=FP32) for path in options.peers]
    with Progress(alone=True) as progress:
        named = {one.identity["name"]: one for one in subjects}
        content = peers_study(named, chosen, progress)
    path = write_result(options.results, NAME, content)
    Console().print(f"wrote {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
