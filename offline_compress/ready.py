"""The data that a recipe names, made ready: what is missing is told before anything is rendered."""

from collections.abc import Sequence

from mtc_perception.datasets.layout import LayoutError, find_layout
from offline_compress.convert.kinds import how_to_make
from offline_compress.recipe.data_root import VARIABLE
from offline_compress.recipe.parts import DataSource
from offline_compress.roads.road_dataset import render_missing


def make_ready(sources: Sequence[DataSource]) -> None:
    """Render the synthetic roads among `sources` that are not there yet.

    Raises LayoutError before that as `require_data`, and UserError if a folder holds other roads
    than its source asks for.
    """
    require_data([source for source in sources if source.synthetic is None])
    render_missing(sources)


def require_data(sources: Sequence[DataSource]) -> None:
    """Raise LayoutError naming every data set that is missing, and how to make it.

    Else it is raised if one is no data set, or has no such split.
    """
    missing = list(dict.fromkeys(one.root for one in sources if not one.root.exists()))
    if len(missing) == 1:
        raise LayoutError(f"data set {missing[0]} does not exist: {how_to_make(missing[0])}")
    if missing:
        lines = "".join(f"\n  {root}: {how_to_make(root)}" for root in missing)
        raise LayoutError(
            f"data sets do not exist, or lie elsewhere, which {VARIABLE} may say:{lines}"
        )
    for source in sources:
        find_layout(source.root).split_folder(source.root, source.split)
