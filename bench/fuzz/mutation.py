"""Mutated inputs, by nothing but a random generator: bytes of files, and the values in texts."""

import random
import re
from collections.abc import Callable, Sequence

MOST_STEPS = 6
_INTEGERS = (0, 1, -1, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_WORDS = (
    *("nan", "inf", "-1", "0", "1e999", "99999999999999999999", "0.5", "true", "null", '""', "[]"),
    *("{}", "../../etc/passwd", "/dev/zero", "\\u0000", "é", "'", '"', "\t", "[[[[", "!!python/x"),
    "x" * 300,
)
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_][\w./-]*')


def mutated(seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """One of the seeds after one to `MOST_STEPS` mutations."""
    data = generator.choice(seeds)
    for _ in range(generator.randint(1, MOST_STEPS)):
        steps = _TEXT_STEPS if _is_text(data) and generator.random() < 0.8 else _BYTE_STEPS
        step = generator.choice(steps)
        data = step(data, generator, generator.choice(seeds))
    return data


Step = Callable[[bytes, random.Random, bytes], bytes]


def _is_text(data: bytes) -> bool:
    return (b"\0" not in data[:1000] and data[:1000].decode(errors="replace").isprintable()) or (
        data[:1000].translate(None, b"\r\n\t").decode(errors="replace").isprintable()
    )


def _place(data: bytes, generator: random.Random) -> int:
    # Beginnings hold what the rest is read by.
    end = min(len(data), 256) if generator.random() < 0.5 else len(data)
    return generator.randrange(end) if end else 0


def _span(data: bytes, generator: random.Random) -> tuple[int, int]:
    begin = _place(data, generator)
    return begin, begin + generator.choice((1, 2, 4, 8, 16, 64, 1024))


def _flip(data: bytes, generator: random.Random, other: bytes) -> bytes:
    place = _place(data, generator)
    flipped = bytes([data[place] ^ 1 << generator.randrange(8)]) if data else b""
    return data[:place] + flipped + data[place + 1 :]


def _integer(data: bytes, generator: random.Random, other: bytes) -> bytes:
    place, size = _place(data, generator), generator.choice((1, 2, 4, 8))
    value = generator.choice(_INTEGERS) % 256**size
    order = generator.choice(("little", "little", "big"))
    return data[:place] + value.to_bytes(size, order) + data[place + size :]


def _random_bytes(data: bytes, generator: random.Random, other: bytes) -> bytes:
    begin, end = _span(data, generator)
    return data[:begin] + generator.randbytes(end - begin) + data[end:]


def _cut(data: bytes, generator: random.Random, other: bytes) -> bytes:
    begin, end = _span(data, generator)
    return data[:begin] + data[end:]


def _truncate(data: bytes, generator: random.Random, other: bytes) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _repeat(data: bytes, generator: random.Random, other: bytes) -> bytes:
    begin, end = _span(data, generator)
    return data[:end] + data[begin:end] * generator.choice((1, 2, 50)) + data[end:]


def _splice(data: bytes, generator: random.Random, other: bytes) -> bytes:
    return data[: _place(data, generator)] + other[_place(other, generator) :]


def _value(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """A number, word or string of a text becomes another one."""
    found = [match.span() for match in _VALUE.finditer(data)]
    if not found:
        return data
    begin, end = generator.choice(found)
    values = [match.group() for match in _VALUE.finditer(other)]
    strange = generator.random() < 0.7 or not values
    new = generator.choice(_WORDS).encode() if strange else generator.choice(values)
    return data[:begin] + new + data[end:]


def _line(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """A line is taken out, doubled, or put elsewhere."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    line = lines.pop(generator.randrange(len(lines)))
    for _ in range(generator.randrange(3)):
        lines.insert(generator.randint(0, len(lines)), line)
    return b"".join(lines)


_BYTE_STEPS: tuple[Step, ...] = (
    *(_flip, _integer, _random_bytes, _cut, _truncate, _repeat, _splice),
)
_TEXT_STEPS: tuple[Step, ...] = (_value, _value, _value, _line, _cut, _truncate, _splice)
