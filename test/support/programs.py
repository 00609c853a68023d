"""Commands in this process: what a program of its own would first import for seconds is there."""

import pytest

from offline_compress import cli


def mtc_compress(*words: object) -> int:
    """Exit code of `mtc-compress` with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mtc-compress", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)
