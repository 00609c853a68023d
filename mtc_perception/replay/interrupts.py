"""Ctrl-C and SIGTERM, for commands that start processes of their own."""

import signal


def handle_interrupts() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, but only the first of them."""

    def interrupt(*_: object) -> None:
        # An impatient second one must not interrupt the clean-up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
