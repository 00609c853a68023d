"""Computes ahead of who takes the items, as far as a budget goes: in a thread, or in a pool."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from typing_extensions import Self

from mtc_perception.util.daemon_thread import DaemonThread

Item = TypeVar("Item")
Result = TypeVar("Result")
_ITEM_S = 5.0
"""More than any item takes to be made."""


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result, None, None]:
    """`function` of each item in order, by `pool`, with at most `ahead` results not asked for yet.

    As `Executor.map`, which takes all of its items at once. What has not begun is cancelled when
    the iteration ends early.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class ReadAhead(Generic[Item]):
    """The items of an iterable, some of them already there before they are asked for.

    Iterate once, then `close`; or use it as a context manager.
    """

    def __init__(
        self, items: Iterable[Item], budget: int, size_of: Callable[[Item], int] = lambda _: 1
    ) -> None:
        """What is there and not asked for is of the size `budget` at most, and one item more.

        The size of an item is 1, or what `size_of` says.
        """
        self._items = items
        self._size_of = size_of
        self._budget = budget
        self._ready: deque[Item] = deque()
        self._size = 0
        self._loaded = 0
        self._complete = False
        self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = DaemonThread("read-ahead", self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fill(self, timeout_s: float) -> tuple[int, bool]:
        """(items read so far, whether that is all the budget or the iterable allows).

        Waits for it up to `timeout_s`. Raises what the iterable raised.
        """
        with self._changed:
            full = self._changed.wait_for(self._is_full, timeout_s)
            if self._error is not None:
                raise self._error
            return self._loaded, full

    @property
    def complete(self) -> bool:
        """Whether everything is read; before the first iteration all of it is in memory then."""
        with self._changed:
            return self._complete

    def __iter__(self) -> Iterator[Item]:
        """Raises what the iterable raised, in its place."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._complete)
                if not self._ready:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._ready.popleft()
                self._size -= self._size_of(item)
                self._changed.notify_all()
            yield item

    def close(self) -> None:
        """End the thread; one that waits for a file that does not answer is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_ITEM_S)

    def _is_full(self) -> bool:
        return self._complete or self._size >= self._budget

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._ready.append(item)
                    self._size += self._size_of(item)
                    self._loaded += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed or self._size < self._budget)
                    if self._closed:
                        return
        except Exception as error:  # raised where the items are asked for
            self._error = error
        finally:
            with self._changed:
                self._complete = True
                self._changed.notify_all()
