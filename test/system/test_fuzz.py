"""What others have made is answered as declared, whatever is wrong with it."""

import pytest

from bench.fuzz.messages import message_targets
from bench.fuzz.runner import MOST_FINDINGS, MOST_GROWTH, corpus_of, fuzz, targets
from bench.fuzz.targets import file_targets
from support.bad_targets import bad_targets

SEED = 20261129
INPUTS = 60
FEW = 2


@pytest.mark.parametrize("name", [target.name for target in file_targets()])
@pytest.mark.fault(
    area="security",
    row="files of others are damaged or made up: images, bundles, records, recipes, labels, bags",
    answer="Each is refused in one line, or read as far as it goes: no crash, no hang, no leak.",
    diagnostics="The line.",
)
def test_mutated_files_are_answered_in_words(name: str) -> None:
    target = targets()[name]
    inputs = max(FEW, round(INPUTS * target.share))
    fuzzed = fuzz(target, SEED, inputs)
    assert fuzzed.findings == []
    assert fuzzed.inputs == inputs + len(corpus_of(target))


@pytest.mark.dds
@pytest.mark.parametrize("name", [target.name for target in message_targets()])
@pytest.mark.fault(
    area="camera",
    row="messages are damaged or made up",
    answer="Each ends as malformed or processed; the node goes on, and its memory stays.",
    diagnostics="malformed counts them; the last reason is told.",
)
def test_mutated_messages_all_have_an_ending(name: str) -> None:
    fuzzed = fuzz(targets()[name], SEED, 2 * INPUTS)
    assert fuzzed.findings == []
    assert fuzzed.accepted < fuzzed.inputs
    assert fuzzed.memory_growth is not None
    assert fuzzed.memory_growth <= MOST_GROWTH


@pytest.mark.parametrize(
    ("name", "inputs", "found", "words"),
    [
        ("raises", MOST_FINDINGS + 5, MOST_FINDINGS, "KeyError: 'missing'"),
        ("crashes", 2, 2, "exit code -6"),
        ("hangs", 2, 2, "takes longer than 0.5 s"),
    ],
)
def test_a_fault_is_found_and_does_not_end_the_search(
    name: str, inputs: int, found: int, words: str
) -> None:
    fuzzed = fuzz(bad_targets()[name], SEED, inputs, known=bad_targets)
    assert len(fuzzed.findings) == found
    assert all(words in finding.what for finding in fuzzed.findings)
    assert [finding.input for finding in fuzzed.findings] == list(range(found))


def test_a_leak_is_seen_and_a_right_target_is_let_pass() -> None:
    leaking = fuzz(bad_targets()["leaks"], SEED, 200, known=bad_targets)
    assert leaking.findings == []
    assert leaking.memory_growth is not None
    assert leaking.memory_growth > MOST_GROWTH
    right = fuzz(bad_targets()["is right"], SEED, 200, known=bad_targets)
    assert right.findings == []
    assert right.memory_growth is not None
    assert right.memory_growth <= MOST_GROWTH
