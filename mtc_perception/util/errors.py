"""Errors a user can mend: every command prints them as one line and exits with code 2."""


class UserError(Exception):
    """Something the user gave or asked for is wrong; the message says what to do about it."""


class BundleError(UserError):
    """A bundle is missing, damaged, or breaks its contract."""


class EngineError(UserError):
    """No engine can run the bundle here, or a running engine failed."""


class ReplayError(UserError):
    """A replay could not be done, though nothing was wrong with what was asked for."""


class ImageError(ValueError):
    """An image cannot be used: wrong size, step, amount of data, or an unknown encoding."""


def one_line(error: Exception) -> str:
    """`error` in one line; with its type only where the message was not written for users."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
