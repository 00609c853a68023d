"""Where a data set lies: it is given by a path or by its name."""

import os
from pathlib import Path

DATA = Path("data")
"""Where data sets are looked for by name, and made."""
VARIABLE = "MTC_DATA"
"""Of the environment: further folders with data sets, separated as those of PATH."""


def data_root(root: Path) -> Path:
    """The folder of a data set.

    What exists as a path is that path, and a path of several parts is never a name. A name is
    looked for in `data/`, then in the folders of MTC_DATA; where there is none, it is the place in
    `data/` that it belongs to.
    """
    if len(root.parts) != 1 or root.exists():
        return root
    folders = [DATA, *map(Path, filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))]
    places = [folder / root for folder in folders]
    return next((place for place in places if place.is_dir()), places[0])
