"""The soak finds what grows and what is lost, and a short one of the real node finds neither."""

import contextlib
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.soak import result_of
from bench.soak_figures import Account, Moment, unexplained, verdicts
from bench.soak_run import PHASES, Plan, soak
from mtc_perception.node.parameters import default_bundle
from mtc_perception.runtime.frames import Counters
from support.replay_bags import stamps, write_drive

FLAT = [Moment(60.0 * i, 300.0 + i % 2, 26 + i % 2, 20) for i in range(16)]
GOOD = Account(
    phase="1 steady",
    camera="front",
    published=100,
    counters=Counters(received=100, processed=90, dropped=6, stale=2, malformed=2),
    answered=90,
    answered_broken=0,
    refused_good=0,
    last_ended=True,
)
SHORT = ("stall", "malformed")


def missed(accounts=(GOOD,), moments=FLAT, problems=()) -> list[str]:
    content = verdicts(accounts, moments, problems)
    return [name for name, verdict in content.items() if not verdict["met"]]


def leaking(**per_round: float) -> list[Moment]:
    return [
        replace(moment, **{name: getattr(moment, name) + i * by for name, by in per_round.items()})
        for i, moment in enumerate(FLAT)
    ]


def test_what_grows_is_found() -> None:
    assert missed() == []
    assert missed(moments=leaking(resident_mib=3.0)) == ["memory flat"]
    assert missed(moments=leaking(handles=1)) == ["handles flat"]
    assert missed(moments=leaking(threads=1)) == ["threads flat"]
    assert missed(moments=leaking(handles=-1, threads=-1, resident_mib=-5.0)) == []
    # It may grow until everything was used once; later a single handle that stays is too many.
    assert missed(moments=[replace(FLAT[0], threads=1), *FLAT]) == []
    stays = [replace(one, handles=one.handles + (i > 9)) for i, one in enumerate(FLAT)]
    assert missed(moments=stays) == ["handles flat"]
    assert missed(moments=FLAT[:2]) == ["memory flat", "handles flat", "threads flat"]


def counted(**changes: int) -> Account:
    return replace(GOOD, counters=replace(GOOD.counters, **changes))


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (counted(dropped=5), "100 images received, 99 ended, 0 wait"),
        (counted(dropped=5, waiting=1), "1 images wait with no more coming"),
        (replace(GOOD, answered=89), "90 images processed, 89 answers came"),
        (replace(GOOD, answered_broken=1), "1 damaged images were answered"),
        (replace(GOOD, refused_good=1), "1 good images were called malformed"),
        (replace(GOOD, published=99), "1 more images received than published"),
        (replace(GOOD, last_ended=False), "nothing became of the last image"),
    ],
)
def test_what_does_not_add_up_is_found(account: Account, words: str) -> None:
    assert unexplained(account) == [f"1 steady, front: {words}"]
    assert missed([GOOD, account]) == ["every image explained"]


def test_images_that_never_came_and_faults_that_were_not_answered_are_found() -> None:
    assert unexplained(replace(GOOD, published=None)) == []
    assert missed([replace(GOOD, published=101)]) == []
    assert missed([replace(GOOD, published=102)]) == ["overtaken on the way"]
    assert missed(problems=["1 stall: did not happen"]) == ["every fault answered"]
    assert missed([]) == ["every image explained", "overtaken on the way"]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    drive = write_drive(tmp_path / "drive", stamps(10, 10.0))
    return Plan(default_bundle(), drive, rate_hz=10.0, seed=1, phase_s=0.5)


@pytest.mark.slow
@pytest.mark.dds
def test_a_short_soak_explains_every_image(plan: Plan) -> None:
    seen = soak(plan, [PHASES, SHORT, SHORT], lambda phase: None)
    content = result_of(plan, seen)
    assert content["unexplained"] == content["problems"] == []
    assert content["rounds"] == 3
    rows = content["phases"]
    assert {name: row["times"] for name, row in rows.items()} == {
        "start": 1,
        **dict.fromkeys(PHASES, 1),
        **dict.fromkeys(SHORT, 3),
    }
    for name, row in rows.items():
        assert row["processed"] > 0, name
        assert (row["malformed"] > 0) == (name == "malformed"), name
        assert (row["stale"] > 0) == (name == "parameters"), name
    for name in ("every image explained", "every fault answered", "handles flat", "threads flat"):
        assert content["targets"][name]["met"], content["targets"]


@pytest.mark.slow
@pytest.mark.dds
def test_a_node_that_dies_ends_the_soak_with_the_reason(plan: Plan) -> None:
    def kill(phase: str) -> None:
        if phase == "1 steady":
            for process in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended just now
                    if "bench.soak_node" in process.cmdline():
                        process.kill()

    content = result_of(plan, soak(plan, [["steady"]], kill))
    (problem,) = content["problems"]
    assert problem.startswith("1 steady: the node ended with exit code -9")
    assert not content["targets"]["every fault answered"]["met"]
