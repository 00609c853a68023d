"""What operations without weights do to the labels of their tensors, by name of the ATen operation.

Everything that is not known here keeps the channels that it reads: nothing is taken on trust.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch

from offline_compress.channels.labels import Labels, compact, core, has_labels, varies


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _names(
    """
    view _unsafe_view reshape _reshape_alias permute transpose t numpy_T slice select narrow
    index index_select cat stack split split_with_sizes chunk unbind expand squeeze unsqueeze
    clone alias detach pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    roll flip repeat unfold lift_fresh movedim contiguous
    """
)
"""Operations that put elements elsewhere: they do the same to labels."""
PARTS = _names("slice select narrow index index_select split split_with_sizes unbind roll unfold")
"""Those that may tell elements apart by their number."""
SHUFFLES = _names("pixel_shuffle channel_shuffle native_channel_shuffle")
"""Those that take channels apart by a number that stays."""
VIEWS = _names("view _unsafe_view reshape _reshape_alias")
POINTWISE = _names("hardswish hardsigmoid hardtanh elu mish softplus log_sigmoid_forward copy_")
"""Operations on each element that ATen does not call so."""
SAME = _names(
    """
    _to_copy copy native_dropout bernoulli zeros_like ones_like empty_like full_like rand_like
    randn_like new_empty new_empty_strided new_zeros new_ones new_full
    """
)
"""Operations whose results have the labels of their first tensor, if they have its shape."""
SPATIAL = _names(
    """
    max_pool2d_with_indices max_pool3d_with_indices max_pool2d max_pool1d avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d
    upsample_bilinear2d upsample_bicubic2d upsample_linear1d _upsample_bilinear2d_aa
    _upsample_nearest_exact2d reflection_pad2d replication_pad2d grid_sampler_2d
    """
)
"""Operations on each channel, dimension 1, alone."""
REDUCTIONS = _names(
    """
    mean sum amax amin max min prod var std var_mean logsumexp norm linalg_vector_norm any all
    argmax argmin
    """
)
ALONG = _names(
    """
    _softmax softmax _log_softmax log_softmax cumsum cumprod sort
    """
)
"""Operations that mix along the dimension `dim` alone."""
VALUES = _names(
    """
    _local_scalar_dense is_nonzero equal nonzero masked_select item
    """
)
"""Operations by which a program learns what is in a tensor."""


Rows = Literal["longest", "shortest", "stay"]
"""Where a view takes channels apart (`view(n, 4, c // 4, h, w)`), the dimension along which they
may go; none: all stay. Which number the program has by heart, no operation shows."""


class Followed(Protocol):
    """The tensors of a forward pass and their labels."""

    labels: Labels
    rows: Rows

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Labels of all elements of a tensor, `compact`."""

    def place(self) -> str:
        """Where in the network this happens, in words."""


Results = Sequence[torch.Tensor]


def labels_after(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    """The labels of what an operation has computed from `arguments`, by name.

    What it unites and what must stay is written into `followed.labels`.
    """
    name = operation(func)
    rule: Callable[..., list[torch.Tensor]] = _stop
    if name in MOVES:
        rule = _move
    elif name in SAME:
        return [_fitting(followed.of(first_tensor(arguments)), one) for one in results]
    elif name in SPATIAL:
        rule = _each_channel
    elif name in REDUCTIONS:
        rule = _reduce
    elif name in ALONG:
        rule = _along
    elif name == "constant_pad_nd":
        rule = _pad
    elif name in POINTWISE or torch.Tag.pointwise in func.tags:
        rule = _pointwise
    return [compact(one) for one in rule(followed, func, arguments, results)]


def operation(func: Any) -> str:
    """Name of an operation, the same whether it works in place or not; `copy_` is no `copy`."""
    name: str = func._schema.name.removeprefix("aten::")
    return name if name == "copy_" or name.startswith("__") else name.rstrip("_")


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Tensors among the arguments or results of an operation."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_of(v)] if isinstance(value, (list, tuple)) else []


def first_tensor(arguments: dict[str, Any]) -> torch.Tensor:
    return tensors_of(arguments)[0]


def _none(results: Results) -> list[torch.Tensor]:
    return [torch.zeros((), dtype=torch.int64).expand(one.shape) for one in results]


def _fitting(labels: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    return labels if labels.shape == result.shape else _none([result])[0]


def _stop(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    for tensor in tensors_of(arguments):
        followed.labels.keep(
            followed.of(tensor), f"read by {operation(func)} in {followed.place()}"
        )
    return _none(results)


def _move(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    first = next(iter(arguments))  # what is moved; all else are places
    what = arguments[first]
    for tensor in tensors_of({name: arguments[name] for name in arguments if name != first}):
        followed.labels.keep(followed.of(tensor), f"read as places in {followed.place()}")
    read = [followed.of(tensor) for tensor in tensors_of(what)]
    if operation(func) in SHUFFLES:
        read = [_whole_rows(followed, read[0], arguments)]
    own = arguments | {first: read if isinstance(what, (list, tuple)) else read[0]}
    try:
        found = tensors_of(func(**own))
    except RuntimeError:  # a view of what only lies in memory this way
        found = tensors_of(func(**own | {first: read[0].contiguous()}))
    return _regular(followed, operation(func), read, [compact(one) for one in found])


def _whole_rows(
    followed: Followed, labels: torch.Tensor, arguments: dict[str, Any]
) -> torch.Tensor:
    """Labels of what a shuffle takes apart into a given number of channels times as many as there
    are: the former go together, or others would be shuffled where one is missing."""
    if "groups" in arguments:
        d, sizes, stays = 1, (arguments["groups"], -1), 1
    else:
        d, sizes, stays = labels.ndim - 3, (-1, arguments["upscale_factor"] ** 2), 0
    if d not in varies(labels):
        return labels
    apart = labels.unflatten(d, sizes)
    column = followed.labels.column(apart, d + stays, followed.place())
    shape = [1] * apart.ndim
    shape[d + stays] = len(column)
    return compact(column.view(shape).expand(apart.shape).flatten(d, d + 1))


def _regular(
    followed: Followed, name: str, read: list[torch.Tensor], found: list[torch.Tensor]
) -> list[torch.Tensor]:
    """`found`, to which an operation has moved `read`, where it would do the same with fewer
    channels; else what makes it so."""
    where = followed.place()
    if name in PARTS and varies(read[0]):
        all_of_it = core(read[0]).reshape(-1)
        if all(torch.equal(core(one).reshape(-1), all_of_it) for one in found):
            return found  # parts of the image, not of the channels
        if name.startswith("split") and len({one.shape for one in found}) == 1:
            # Equal parts stay equal if they lose the same channels.
            for one in found[1:]:
                followed.labels.unite(found[0], one)
                alone = (found[0] > 0) != (one > 0)
                followed.labels.keep(torch.where(alone, found[0] + one, 0), f"split in {where}")
            return [found[0]] * len(found)
        followed.labels.keep(read[0], f"taken by number ({name}) in {where}")
        return [torch.zeros_like(one) for one in found]
    along = varies(found[0])
    sizes = {tuple(one.shape[d] for d in varies(one)) for one in read}
    if name in VIEWS and len(along) > 1 and {tuple(found[0].shape[d] for d in along)} != sizes:
        # A dimension became several: rows and columns stay only if whole ones go.
        if followed.rows == "stay":
            followed.labels.keep(found[0], f"taken apart into a fixed number in {where}")
            return [torch.zeros_like(found[0])]
        along.sort(key=lambda d: (found[0].shape[d], -d), reverse=followed.rows == "longest")
        column = followed.labels.column(found[0], along[0], where)
        shape = [1] * found[0].ndim
        shape[along[0]] = len(column)
        return [column.view(shape).expand(found[0].shape)]
    return found


def _pointwise(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    shape = torch.broadcast_shapes(*(one.shape for one in results))
    own = []
    for tensor in tensors_of(arguments):
        labels = followed.of(tensor)
        if tensor.numel() > 1 or has_labels(labels):
            own.append(labels[(None,) * (len(shape) - labels.ndim)])
    along = {d for labels in own for d in varies(labels)}
    taking_part = []
    for labels in own:
        one_channel = along and not varies(labels) and has_labels(labels)
        if one_channel or any(labels.shape[d] == 1 < shape[d] for d in along):
            followed.labels.keep(labels, f"spread over other channels in {followed.place()}")
        else:
            taking_part.append(core(labels))
    return [_combined(followed, taking_part).expand(shape)] * len(results)


def _combined(followed: Followed, own: Sequence[torch.Tensor]) -> torch.Tensor:
    """Labels of tensors that are combined element by element: they go together."""
    together, *others = torch.broadcast_tensors(*own) if own else _none([torch.zeros(())])
    for labels in others:
        followed.labels.unite(together, labels)
        alone = (together > 0) != (labels > 0)
        reason = f"combined with what is not followed in {followed.place()}"
        followed.labels.keep(torch.where(alone, torch.maximum(together, labels), 0), reason)
        together = torch.where(together > 0, together, labels)
    return together


def _each_channel(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    tensor = first_tensor(arguments)
    labels = followed.of(tensor)
    for other in tensors_of(arguments)[1:]:  # where to sample
        followed.labels.keep(followed.of(other), f"read as places in {followed.place()}")
    if tensor.ndim != results[0].ndim or tensor.ndim < 3:
        return _stop(followed, func, arguments, results)
    column = followed.labels.column(labels, 1, followed.place())
    column = column.view(1, -1, *[1] * (tensor.ndim - 2))
    return [column.expand(one.shape) for one in results]


def _reduce(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    labels = followed.of(first_tensor(arguments))
    named = arguments.get("dim")
    dims = [named] if isinstance(named, int) else list(named or range(labels.ndim))
    dims = [d % max(labels.ndim, 1) for d in dims]
    along = set(varies(labels))
    if along and along <= set(dims):  # over the channels
        return _stop(followed, func, arguments, results)
    for d in along & set(dims):  # over tensors, stacked, each with its channels
        shape = [size if k != d else 1 for k, size in enumerate(labels.shape)]
        labels = _combined(followed, [core(one) for one in labels.split(1, d)]).expand(shape)
    for d in sorted(dims, reverse=True):
        labels = labels.narrow(d, 0, 1)
        if not arguments.get("keepdim", False):
            labels = labels.squeeze(d)
    return [_fitting(labels, one) for one in results]


def _along(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    labels = followed.of(first_tensor(arguments))
    if arguments.get("dim", -1) % max(labels.ndim, 1) in varies(labels):
        return _stop(followed, func, arguments, results)
    return [_fitting(labels, one) for one in results]


def _pad(
    followed: Followed, func: Any, arguments: dict[str, Any], results: Results
) -> list[torch.Tensor]:
    labels = followed.of(first_tensor(arguments))
    along = varies(labels)
    for place, (before, after) in enumerate(
        zip(arguments["pad"][::2], arguments["pad"][1::2], strict=True)
    ):
        d = labels.ndim - 1 - place
        if d in along:  # channels of zeros before and behind
            sides = [
                labels.new_zeros([s if k != d else width for k, s in enumerate(labels.shape)])
                for width in (max(before, 0), max(after, 0))
            ]
            end = labels.shape[d] + min(after, 0)
            inner = labels.narrow(d, max(-before, 0), end - max(-before, 0))
            labels = torch.cat((sides[0], inner, sides[1]), d)
        else:
            size = labels.shape[d] + before + after
            shape = [s if k != d else size for k, s in enumerate(labels.shape)]
            labels = labels.narrow(d, 0, 1).expand(shape)
    return [labels]
