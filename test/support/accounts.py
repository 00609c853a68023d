"""Every image that is received becomes something, whatever happens."""

from collections.abc import Mapping

from mtc_perception.runtime.frames import Counters

NAMES = {
    "frames_in": "received",
    "frames_processed": "processed",
    "frames_dropped": "dropped",
    "frames_stale": "stale",
    "frames_malformed": "malformed",
    "frames_waiting": "waiting",
}
"""Of the counters, in the diagnostics of a camera."""


def check_accounts(counted: Counters | Mapping[str, str]) -> Counters:
    """The counters of a camera, or in its diagnostics, if they add up."""
    if not isinstance(counted, Counters):
        counted = Counters(**{field: int(counted[name]) for name, field in NAMES.items()})
    outcomes = counted.processed + counted.dropped + counted.stale + counted.malformed
    assert counted.received == outcomes + counted.waiting, counted
    return counted
