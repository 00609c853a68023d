"""When each image of a recording is due, and the stamp that it is played with."""

from collections.abc import Iterable, Iterator

from mtc_perception.replay.recordings.recording import NS_PER_S

# A longer gap is a pause in the recording: not waited for.
_LONGEST_GAP_NS = 2 * NS_PER_S


def schedule(stamps_ns: Iterable[int], rate_hz: float) -> Iterator[int]:
    """When each image is due, ns after the first one: as recorded, always moving ahead.

    A stamp that jumps back, stands still or jumps far ahead counts as one period.
    """
    period_ns = round(NS_PER_S / rate_hz)
    due_ns, before_ns = 0, None
    for stamp_ns in stamps_ns:
        if before_ns is not None:
            step_ns = stamp_ns - before_ns
            due_ns += step_ns if 0 < step_ns <= _LONGEST_GAP_NS else period_ns
        before_ns = stamp_ns
        yield due_ns


class Stamps:
    """The stamps to play with: those of the recording, where a node can live with them.

    A recording that begins at 0 (a video) is moved by a second, for 0 means "not set". A stamp that
    an earlier image had gets the next free nanosecond, for outputs are told apart by it.
    """

    def __init__(self) -> None:
        self._shift_ns: int | None = None
        self._used: set[int] = set()

    def of(self, source_stamp_ns: int) -> int:
        if self._shift_ns is None:
            self._shift_ns = NS_PER_S if source_stamp_ns < NS_PER_S else 0
        stamp_ns = max(source_stamp_ns + self._shift_ns, 1)
        while stamp_ns in self._used:
            stamp_ns += 1
        self._used.add(stamp_ns)
        return stamp_ns
