"""What a soak saw, and whether anything of it grew or is not explained."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mtc_perception.runtime.frames import Counters

MOST_GROWTH = 0.05
"""Of the resident memory, between the halves of what comes after the warm-up."""
MOST_OVERTAKEN = 0.01
"""The subscription holds one image: on a busy machine a newer one may replace it there, unseen by
the node."""
WARM_UP_SHARE = 0.25
"""Of the rounds: buffers and pools are as large as they get after some."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The node's process at the end of a round: active, with no image on its way."""

    since_start_s: float
    resident_mib: float
    handles: int
    threads: int


@dataclass(slots=True)
class Account:
    """What became of the images of one camera in one phase."""

    phase: str
    """Its round as well: "3 swap"."""
    camera: str
    published: int | None
    """None where it cannot be compared: nobody subscribed for a while, or the camera died."""
    counters: Counters
    """The node's own, of this phase alone."""
    answered: int
    """Images of which every output came."""
    answered_broken: int
    """Of these, damaged ones."""
    refused_good: int
    """Images called malformed that are not."""
    last_ended: bool
    """Whether it came out how the last image ended; no newer one can have replaced it."""

    @property
    def overtaken(self) -> int:
        """Images that were published and never reached the node."""
        return 0 if self.published is None else self.published - self.counters.received


def counters_from(values: dict[str, str]) -> Counters:
    """The counters in a camera's diagnostics."""
    return Counters(
        **{
            field.name: int(
                values["frames_in" if field.name == "received" else f"frames_{field.name}"]
            )
            for field in fields(Counters)
        }
    )


def combined(one: Counters, other: Counters, sign: int = 1) -> Counters:
    """The sum, or with `sign` -1 the difference."""
    return Counters(
        **{
            field.name: getattr(one, field.name) + sign * getattr(other, field.name)
            for field in fields(Counters)
        }
    )


def unexplained(account: Account) -> list[str]:
    """Sentences about what does not add up; empty if all of it does."""
    counted = account.counters
    ended = counted.processed + counted.dropped + counted.stale + counted.malformed
    found = []
    if counted.received != ended + counted.waiting:
        found.append(f"{counted.received} images received, {ended} ended, {counted.waiting} wait")
    if counted.waiting:
        found.append(f"{counted.waiting} images wait with no more coming")
    if account.answered != counted.processed:
        found.append(f"{counted.processed} images processed, {account.answered} answers came")
    if account.answered_broken:
        found.append(f"{account.answered_broken} damaged images were answered")
    if account.refused_good:
        found.append(f"{account.refused_good} good images were called malformed")
    if account.overtaken < 0:
        found.append(f"{-account.overtaken} more images received than published")
    if not account.last_ended:
        found.append("nothing became of the last image")
    return [f"{account.phase}, {account.camera}: {words}" for words in found]


def verdicts(
    accounts: Sequence[Account], moments: Sequence[Moment], problems: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each target by name: whether it is `met`, and the figures in `words`."""
    wrong = sum(bool(unexplained(account)) for account in accounts)
    compared = [account for account in accounts if account.published is not None]
    published = sum(account.published or 0 for account in compared)
    overtaken = sum(account.overtaken for account in compared)
    received = sum(account.counters.received for account in accounts)
    share = overtaken / published if published else 1.0
    return {
        "every image explained": _verdict(
            received > 0 and not wrong,
            f"{received} images in {len(accounts)} accounts, {wrong} of which do not add up",
        ),
        "overtaken on the way": _verdict(
            share <= MOST_OVERTAKEN,
            f"{overtaken} of {published} published, allowed {MOST_OVERTAKEN:.0%}",
        ),
        "every fault answered": _verdict(not problems, f"{len(problems)} problems"),
        **_flatness(moments),
    }


def after_warm_up(moments: Sequence[Moment]) -> Sequence[Moment]:
    return moments[max(1, round(len(moments) * WARM_UP_SHARE)) :]


def _flatness(moments: Sequence[Moment]) -> dict[str, dict[str, Any]]:
    """What grew: medians of the halves, so that one odd moment is no leak and hides none."""
    measured = after_warm_up(moments)
    half = len(measured) // 2
    if not half:
        too_few = _verdict(False, "too short to tell: no two rounds after the warm-up")
        return {f"{name} flat": too_few for name in ("memory", "handles", "threads")}

    def halves(values: Iterable[float]) -> tuple[float, float]:
        listed = list(values)
        return statistics.median(listed[:half]), statistics.median(listed[-half:])

    before, after = halves(moment.resident_mib for moment in measured)
    growth = after / before - 1
    flat = {
        "memory flat": _verdict(
            growth <= MOST_GROWTH,
            f"{before:.1f} to {after:.1f} MiB ({growth:+.1%}), allowed {MOST_GROWTH:+.0%}",
        )
    }
    for name in ("handles", "threads"):
        before, after = halves(getattr(moment, name) for moment in measured)
        flat[f"{name} flat"] = _verdict(after <= before, f"{before:g} to {after:g}, allowed +0")
    return flat


def _verdict(met: bool, words: str) -> dict[str, Any]:
    return {"met": met, "words": words}
