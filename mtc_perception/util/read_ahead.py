"""Reads ahead in a thread of its own, as far as a budget of bytes goes."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """The items of an iterable, some of them already there before they are asked for.

    Memory is bounded by `budget_bytes` and one item. Iterate once, then `close`.
    """

    def __init__(
        self, items: Iterable[Item], size_of: Callable[[Item], int], budget_bytes: int
    ) -> None:
        self._items = items
        self._size_of = size_of
        self._budget = budget_bytes
        self._ready: deque[Item] = deque()
        self._bytes = 0
        self._loaded = 0
        self._complete = False
        self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
        self._thread.start()

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
                self._bytes -= self._size_of(item)
                self._changed.notify_all()
            yield item

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _is_full(self) -> bool:
        return self._complete or self._bytes >= self._budget

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._ready.append(item)
                    self._bytes += self._size_of(item)
                    self._loaded += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed or self._bytes < self._budget)
                    if self._closed:
                        return
        except Exception as error:  # raised where the items are asked for
            self._error = error
        finally:
            with self._changed:
                self._complete = True
                self._changed.notify_all()
