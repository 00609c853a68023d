"""The samples of a split that has labels."""

from mtc_perception.datasets.layout import LayoutError, Sample, read_split
from offline_compress.recipe.parts import DataSource


def labelled_split(source: DataSource, purpose: str) -> list[Sample]:
    """All samples of a split, to `purpose`, e.g. `train on`.

    Raises LayoutError if the data set is missing or broken, or none of them is labelled.
    """
    samples = read_split(source.root, source.split)
    if not any(sample.labelled for sample in samples):
        raise LayoutError(
            f"split {source.split} of {source.root} has no labels to {purpose}: "
            f"`mtc-compress check-data {source.root}` tells what is there"
        )
    return samples
