"""Errors a user can mend: every command prints them as one line and exits with code 2."""

_MOST_CHARACTERS = 2000
_MOST_QUOTED = 100


class UserError(Exception):
    """Something the user gave or asked for is wrong; the message says what to do about it.

    As text it is one line fit for a terminal, whatever names it repeats; and the lines that it
    quotes, those that begin with two spaces.
    """

    def __str__(self) -> str:
        return "\n  ".join(map(printable, super().__str__().split("\n  ", _MOST_QUOTED)))


class BundleError(UserError):
    """A bundle is missing, damaged, or breaks its contract."""


class EngineError(UserError):
    """No engine can run the bundle here, or a running engine failed."""


class ReplayError(UserError):
    """A replay could not be done, though nothing was wrong with what was asked for."""


class ImageError(ValueError):
    """An image cannot be used: wrong size, step, amount of data, or an unknown encoding.

    As text it is one line, whatever it repeats of a message that may be anybody's.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """`text` in one line, without control characters; where it is endless, without its middle."""
    text = " ".join(text.split())
    if not text.isprintable():  # or a terminal would obey it
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return text


def one_line(error: Exception) -> str:
    """`error` in one line; with its type only where the message was not written for users."""
    text = printable(str(error))
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
