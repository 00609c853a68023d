"""Whether a network is as good as another: its difference against a margin stated before."""

from collections.abc import Mapping

from mtc_perception.metrics.bootstrap import Difference

MARGINS_POINTS: Mapping[str, float] = {
    "detection.map50": 1.5,
    "detection.map50_95": 1.5,
    "detection.best_f1": 1.0,
    "detection.recall_at_best_f1": 1.0,
    "detection.precision_at_best_f1": 1.0,
    "drivable.miou": 0.3,
    "lane.iou": 0.5,
}
"""By figure, in hundredths: differences that do not matter, unless somebody states others."""


def verdict(found: Difference, margin_points: float) -> str:
    """`equivalent`, `lost`, `gained`, `unclear` or `too few images`.

    Equivalent: the whole interval lies within the margin on both sides. Lost or gained: it does
    not, and holds no 0. Unclear: these images allow neither.
    """
    if found.low is None or found.high is None:
        return "too few images"
    margin = margin_points / 100
    if -margin <= found.low and found.high <= margin:
        return "equivalent"
    if found.high < 0:
        return "lost"
    return "gained" if found.low > 0 else "unclear"
