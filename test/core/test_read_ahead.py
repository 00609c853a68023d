"""Computing ahead in a pool: in order, bounded, and over when nobody takes the results."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtc_perception.util import read_ahead
from mtc_perception.util.read_ahead import ReadAhead, map_ahead


def test_results_come_in_order_and_no_more_than_asked_are_ahead() -> None:
    taken: list[int] = []

    def items() -> list[int]:
        return list(range(10))

    def noted(item: int) -> int:
        taken.append(item)
        return item * item

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, noted, items(), 3)
        assert next(results) == 0
        pool.submit(lambda: None).result()  # after all that was asked of it
        assert taken == [0, 1, 2, 3]
        assert list(results) == [n * n for n in range(1, 10)]


def test_what_has_not_begun_is_cancelled() -> None:
    begun, go_on = [], threading.Event()

    def waits(item: int) -> int:
        begun.append(item)
        if item == 1:
            go_on.wait(30)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, waits, range(10), 4)
        assert next(results) == 0
        results.close()
        go_on.set()
    assert set(begun) <= {0, 1}


def test_an_error_is_raised_in_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda item: 1 // item, [1, 0, 1], 2)
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_closing_does_not_wait_for_what_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_ITEM_S", 0.1)
    answer = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        answer.wait(20)

    ahead = ReadAhead(ReadAhead(items(), 3), 3)
    assert next(iter(ahead)) == 1
    ahead.close()
    assert not answer.is_set()
    answer.set()
