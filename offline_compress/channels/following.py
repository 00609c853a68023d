"""Follows channels through a forward pass: which channels of which layers are the same ones.

The network runs as it is, on a copy and on the CPU, and every operation is seen. Each element of
each tensor has a label, an integer that stands for a channel of the layer that made it. Operations
that move elements move labels, those that combine elements unite labels, and whatever is not known
keeps the channels that it reads. So nothing is guessed from the structure of the program.
"""

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtc_perception.util.errors import UserError
from offline_compress.channels.description import Description, calling, is_under, tensors_in
from offline_compress.channels.labels import Labels, compact, has_labels, varies
from offline_compress.channels.layers import RULES
from offline_compress.channels.operations import VALUES, Rows, labels_after, operation, tensors_of

LAYERS = (_ConvNd, _NormBase, nn.GroupNorm, nn.Linear, nn.PReLU)
"""Layers that channels can be cut out of."""
OF_LAYERS = (".weight", ".bias", ".running_mean", ".running_var")
"""What those compute with, which is cut with them."""
LOOKS = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)
"""By which a program reads a tensor without an operation."""
_BATCH_NORM = inspect.signature(F.batch_norm)
PREDICTION = "prediction"
"""Why what a network returns keeps its channels."""


class Following:
    """Forward passes of a network, and what they showed."""

    def __init__(self, network: nn.Module, opaque: Sequence[str], rows: Rows) -> None:
        self.labels = Labels()
        self.rows: Rows = rows
        # A module that has several names goes by the first.
        first = {module: name for name, module in network.named_modules()}
        self._network = network
        self.opaque = [first[network.get_submodule(name)] for name in opaque]
        """Parts that are not followed."""
        self._owners: dict[int, str] = {}
        """Of parameters and buffers, their dotted names."""
        self._shared: set[int] = set()
        """Those that several modules hold."""
        stored = network.state_dict().keys()
        for name, module in network.named_modules():
            buffers = module.named_buffers(name, False)
            # A buffer that no file holds would have its first width again in a loaded network.
            own = [one for one in buffers if one[0] in stored]
            for full_name, tensor in (*module.named_parameters(name, False), *own):
                if id(tensor) in self._owners:
                    self._shared.add(id(tensor))
                self._owners.setdefault(id(tensor), full_name)
        self._found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Of all tensors that depend on the network's inputs, and of its own: labels. The tensors
        are held, so that no other one has the same id."""
        self._from_input: set[int] = set()
        self._running: list[str] = [""]
        self._silent = 0
        """How many opaque parts are running, one inside the other."""
        self._aside = False
        self.used: set[str] = set()
        """Parameters and buffers that took part."""
        self.ran: set[str] = set()
        """Modules that did."""

    # What the rules ask for.

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._found:
            name, wide = self._owners.get(id(tensor), ""), [s for s in tensor.shape if s > 1]
            layer = self.layer_of(tensor) if name.endswith(OF_LAYERS) else None
            labels = torch.zeros((), dtype=torch.int64)
            # Of what a layer computes with, vectors alone have one side only.
            own = bool(name) and (layer is None or tensor.ndim == 1)
            if own and len(wide) == 1 and id(tensor) not in self._shared:
                labels = self.labels.slot(layer or name, "out", wide[0]).view(tensor.shape)
            self._found[id(tensor)] = tensor, compact(labels.expand(tensor.shape))
        return self._found[id(tensor)][1]

    def layer_of(self, *weights: torch.Tensor | None) -> str | None:
        there = [weight for weight in weights if weight is not None]
        if any(id(weight) not in self._owners or id(weight) in self._shared for weight in there):
            return None
        names = {self._owners[id(weight)].rpartition(".")[0] for weight in there}
        name = names.pop()
        one = not names and isinstance(self._network.get_submodule(name), LAYERS)
        return name if one else None

    def place(self) -> str:
        return self._running[-1] or "the network itself"

    # Running.

    def run(self, arguments: tuple[Any, ...]) -> Any:
        """One forward pass. Raises UserError if the network looks into its tensors."""
        handles = [
            handle
            for name, module in self._network.named_modules()
            for handle in (
                module.register_forward_pre_hook(self._entering(name), with_kwargs=True),
                module.register_forward_hook(self._leaving(name), with_kwargs=True),
            )
        ]
        for tensor in tensors_in(arguments):
            self._result(tensor, torch.zeros((), dtype=torch.int64).expand(tensor.shape), True)
        try:
            with torch.no_grad(), _Operations(self), _Layers(self):
                return self._network(*arguments)
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Callable[..., None]:
        opaque = is_under(name, self.opaque)

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._running.append(name)
            self.ran.add(name)
            if opaque:
                if not self._silent:
                    with self._labelling():
                        for tensor in tensors_of([args, kwargs]):
                            self.labels.keep(self.of(tensor), f"read by {name}, which is opaque")
                self._silent += 1

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        opaque = is_under(name, self.opaque)

        def leave(_module: nn.Module, _args: Any, _kwargs: Any, _output: Any) -> None:
            self._running.pop()
            self._silent -= opaque

        return leave

    def layer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a layer, and what it does to labels."""
        if self._silent or self._aside:
            return func(*args, **kwargs)
        self._use([*args, *kwargs.values()])
        if func is F.batch_norm:
            bound = _BATCH_NORM.bind(*args, **kwargs)
            # Not in training mode: single images have no statistics.
            bound.arguments["training"] = bound.arguments["running_mean"] is None
            args, kwargs = bound.args, bound.kwargs
        with self._labelling():
            result = func(*args, **kwargs)
            self._result(result, compact(RULES[func](self, result, *args, **kwargs)), True)
        return result

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operation without weights, and what it does to labels."""
        if self._aside:
            return func(*args, **kwargs)
        read = tensors_of([args, kwargs])
        self._use(read)
        depends = any(id(tensor) in self._from_input for tensor in read)
        if operation(func) in VALUES:
            self.look(operation(func), read)
        result = func(*args, **kwargs)
        with self._labelling():
            self._label_results(func, args, kwargs, tensors_of(result), depends)
        return result

    def look(self, how: str, read: Sequence[torch.Tensor]) -> None:
        """The program learns what is in these tensors. Raises UserError if they are the image's."""
        if self._silent or self._aside:
            return
        if any(id(tensor) in self._from_input for tensor in read):
            raise UserError(
                f"{self.place()} looks into its tensors ({how}), so that what it does depends on "
                "the image, and its channels cannot be followed; name it under opaque"
            )

    def _label_results(
        self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor], depends: bool
    ) -> None:
        read = tensors_of([args, kwargs])
        if self._silent or not any(has_labels(self.of(tensor)) for tensor in read):
            for tensor in results if depends else ():
                self._result(tensor, torch.zeros((), dtype=torch.int64).expand(tensor.shape), True)
            return
        names = [argument.name for argument in func._schema.arguments]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        for tensor, labels in zip(
            results, labels_after(self, func, arguments, results), strict=True
        ):
            if id(tensor) in self._found and not has_labels(self.of(tensor)):
                self.labels.keep(labels, f"written into a part of a tensor in {self.place()}")
            self._result(tensor, labels, depends)

    def _result(self, tensor: torch.Tensor, labels: torch.Tensor, depends: bool) -> None:
        """`labels` are those of `tensor`, unless it has some: what works in place leaves them."""
        self._found.setdefault(id(tensor), (tensor, labels))
        if depends:
            self._from_input.add(id(tensor))

    @contextmanager
    def _labelling(self) -> Iterator[None]:
        """What is computed here is followed as a whole, or no part of the network."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def _use(self, values: Any) -> None:
        for tensor in tensors_of(values):
            if name := self._owners.get(id(tensor)):
                self.used.add(name)


class _Layers(TorchFunctionMode):
    """Sees the functions that layers compute with."""

    def __init__(self, following: Following) -> None:
        super().__init__()
        self._following = following

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RULES:
            return self._following.layer(func, args, kwargs or {})
        if func in LOOKS:
            self._following.look(func.__name__, tensors_of(list(args)))
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Sees what else is computed."""

    def __init__(self, following: Following) -> None:
        super().__init__()
        self._following = following

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._following.operation(func, args, kwargs or {})


def follow(model: nn.Module, description: Description, rows: Rows = "longest") -> Following:
    """Follow channels through `model`, which is not changed, in use and in training.

    `rows` says what may go of channels that a view takes apart.

    Raises UserError for what cannot be followed, with what to write to go on.
    """
    network = copy.deepcopy(model).float().cpu()
    _check_names(network, description)
    following = Following(network, description.opaque, rows)
    with torch.random.fork_rng(devices=[]), _tapped(network, description) as taps:
        for mode in (False, True):
            network.train(mode)
            taps.clear()
            words = "in training mode" if mode else "in eval mode"
            try:
                output = following.run(tuple(copy.deepcopy(description.example)))
            except UserError:
                raise
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(
                    f"the network does not run on `example` {words}: {reason}"
                ) from None
            for tensor in description.answered(output):
                following.labels.keep(following.of(tensor), PREDICTION)
            for name, place in description.taps.items():
                with calling(f"tap {name}, of what the network returns"):
                    found = taps.get(place) if isinstance(place, str) else place(output)
                _note_tap(following, name, found)
    _check_all_ran(network, following)
    return following


@contextmanager
def _tapped(network: nn.Module, description: Description) -> Iterator[dict[str, Any]]:
    """What the modules that are taps yield, by name."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: found.__setitem__(name, output)

    places = {place for place in description.taps.values() if isinstance(place, str)}
    handles = [network.get_submodule(p).register_forward_hook(keep(p)) for p in sorted(places)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _note_tap(following: Following, name: str, feature: Any) -> None:
    if not isinstance(feature, torch.Tensor) or feature.ndim < 3:
        raise UserError(f"tap {name} is no feature [N, C, ...]; name a module that yields one")
    labels = following.of(feature)
    if set(varies(labels)) - {1}:
        raise UserError(
            f"tap {name} is {list(feature.shape)} with channels elsewhere than in dimension 1; "
            "name a module that yields [N, C, ...]"
        )
    column = labels.movedim(1, 0).reshape(labels.shape[1], -1)[:, 0]
    if (column == 0).any():
        return  # of an opaque part: it keeps its channels
    following.labels.unite(following.labels.slot(name, "tap", len(column)), column)


def _check_names(network: nn.Module, description: Description) -> None:
    parts = dict(network.named_modules(remove_duplicate=False))
    places = [place for place in description.taps.values() if isinstance(place, str)]
    for what, names in (("opaque", description.opaque), ("taps", places)):
        for name in names:
            if name not in parts or not name:
                raise UserError(f"{what} names {name!r}, which is no part of the network")


def _check_all_ran(network: nn.Module, following: Following) -> None:
    """Raise UserError for parts that did not run. Parameters of no layer, in a module that ran, are
    no channels until they are used: weights of losses, say."""
    busy = following.ran.union(*map(_prefixes, following.used))
    idle: dict[str, None] = {}  # in order, each once
    for name, _ in network.named_parameters():
        owner = name.rpartition(".")[0]
        lone = owner in following.ran and not isinstance(network.get_submodule(owner), LAYERS)
        if not (lone or name in following.used or is_under(name, following.opaque)):
            idle[next((part for part in _prefixes(owner) if part not in busy), owner)] = None
    if idle:
        takes, its, it = ("take", "their", "them") if len(idle) > 1 else ("takes", "its", "it")
        raise UserError(
            f"{', '.join(idle)} {takes} no part in the network's answer to `example`, so {its} "
            f"channels cannot be followed; name {it} under opaque"
        )


def _prefixes(name: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    return list(itertools.accumulate(name.split("."), "{}.{}".format))
