"""Follows channels through a network with Torch-Pruning's dependency graph."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.models.decoder import QueryDecoder
from offline_compress.models.heads import DenseDetectionHead, MaskHead
from offline_compress.models.hybrid_encoder import GridAttention
from offline_compress.models.segmentation import FullMaskDecoder
from offline_compress.models.shapes import CONVOLUTIONS

EXAMPLE_SIZE = (64, 96)
"""Height and width of the image that is traced: small, and both sides different."""
PREFIX = "network."
Side = Literal["out", "in"]
Layer = tuple[str, Side, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """Channels that go together, as traced."""

    root: str
    size: int
    layers: list[Layer]
    """Name, side and [size, k] channels of every layer among them."""
    taps: dict[str, NDArray[np.int64]]
    """Feature tap -> [size] channel of that tap."""
    fixed: str
    """Why the network itself cannot lose these channels; empty if it can."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """All that one forward pass shows."""

    couplings: list[Coupling]
    order: dict[str, int]
    """Layer -> position in the forward pass."""


class _Traced(nn.Module):
    """A copy of a network that ends where its channels get a meaning of their own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).float().cpu().eval().requires_grad_(True)
        self.fixed: dict[str, str] = {}
        """Layer -> why its output channels are fixed."""
        self.inputs: dict[str, str] = {}
        """Stand-in -> why its input channels are fixed."""
        self.inside: set[str] = set()
        """Parts whose insides are not followed."""
        self.order: dict[str, int] = {}
        self._ends: list[nn.Module] = []
        for name, module in list(self.network.named_modules()):
            self._close(name, module)
        self.free: list[tuple[str, nn.Parameter]] = []
        """Parameters of no layer that scale a feature map by channel."""
        for name, parameter in _free_parameters(self.network):
            if parameter.ndim == 4 and parameter.shape[1] == parameter.numel() > 1:
                self.free.append((name, parameter))
            else:
                parameter.requires_grad_(False)  # Out of the graph.
        self._probe()

    def _close(self, name: str, module: nn.Module) -> None:
        if isinstance(module, GridAttention):
            width = module.ffn_norm.normalized_shape[0]
            *path, last = name.split(".")
            parent = self.network.get_submodule(".".join(path))
            setattr(parent, last, nn.Conv2d(width, width, 1))
            self.fixed[name] = self.inputs[name] = "self-attention"
        elif isinstance(module, QueryDecoder):
            self.inside.add(name)
            for level, project in enumerate(module.project):
                self._ends.append(project)
                self.fixed[f"{name}.project.{level}.0"] = "query decoder"
        elif isinstance(module, DenseDetectionHead):
            for level in range(len(module.classify)):
                self._end(f"{name}.classify.{level}")
                self._end(f"{name}.regress.{level}")
        elif isinstance(module, (MaskHead, FullMaskDecoder)):
            self._end(f"{name}.predict")

    def _end(self, name: str) -> None:
        self._ends.append(self.network.get_submodule(name))
        self.fixed[name] = "prediction"

    def _probe(self) -> None:
        """Put a convolution on every feature tap, and note in which order layers run."""
        names = {module: name for name, module in self.network.named_modules()}

        def note(module: nn.Module, *_: Any) -> None:
            self.order.setdefault(names[module], len(self.order))

        hooks = [module.register_forward_hook(note) for module in names]
        with torch.no_grad():
            features = self.network(self.example()).features
        for hook in hooks:
            hook.remove()
        self.probes = nn.ModuleDict(
            {tap: nn.Conv2d(feature.shape[1], 1, 1) for tap, feature in features.items()}
        )

    @staticmethod
    def example() -> torch.Tensor:
        return torch.zeros(1, 3, *EXAMPLE_SIZE)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """What the layers at the ends and the probes yield."""
        found: list[torch.Tensor] = []
        hooks = [
            end.register_forward_hook(lambda _module, _inputs, output: found.append(output))
            for end in self._ends
        ]
        features = self.network(image).features
        for hook in hooks:
            hook.remove()
        return found + [self.probes[tap](feature) for tap, feature in features.items()]


def _free_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and value of the parameters that modules of our own hold beside their layers."""
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("torch."):
            yield from module.named_parameters(name, recurse=False)


def trace(model: nn.Module) -> Trace:
    """Every coupling of a network of the registry. Raises UserError for a layer that does not
    follow."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        traced = _Traced(model)
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(
            traced,
            traced.example(),
            unwrapped_parameters=[(parameter, 1) for _, parameter in traced.free],
            verbose=False,
        )
    names: dict[Any, str] = {module: name for name, module in traced.named_modules()}
    names.update({parameter: PREFIX + name for name, parameter in traced.free})
    couplings = [
        _coupling(graph, group, names, traced)
        for group in graph.get_all_groups(root_module_types=CONVOLUTIONS)
        if names[group[0].dep.target.module].startswith(PREFIX)
    ]
    _check_coverage(traced, graph, couplings)
    return Trace(couplings, traced.order)


def _coupling(graph: Any, group: Any, names: dict[Any, str], traced: _Traced) -> Coupling:
    size = len(group[0].idxs)
    layers: list[Layer] = []
    taps: dict[str, NDArray[np.int64]] = {}
    reasons: list[str] = []
    for item in group:
        module = item.dep.target.module
        if module not in names:
            continue  # An operation without channels of its own.
        name = names[module]
        side: Side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        if name.startswith(PREFIX):
            name = name.removeprefix(PREFIX)
            reasons.append((traced.fixed if side == "out" else traced.inputs).get(name, ""))
            if name not in traced.inputs and _has_channels(module):
                layers.append((name, side, _index(item, size, name)))
        else:
            tap = name.removeprefix("probes.")
            taps[tap] = _index(item, size, f"tap {tap}")[:, 0]
    root = names[group[0].dep.target.module].removeprefix(PREFIX)
    return Coupling(root, size, layers, taps, next(filter(None, reasons), ""))


def _has_channels(module: Any) -> bool:
    return isinstance(module, (*CONVOLUTIONS, nn.BatchNorm2d, nn.Parameter))


def _index(item: Any, size: int, layer: str) -> NDArray[np.int64]:
    """[size, k] channels of the layer that go with each of the group's. Raises UserError unless
    all have equally many."""
    channels: list[list[int]] = [[] for _ in range(size)]
    for channel, root in zip(item.idxs, item.root_idxs, strict=True):
        channels[root].append(channel)
    if len({len(c) for c in channels}) != 1:
        raise UserError(f"{layer} cannot be pruned: its channels belong to others only in part")
    return np.sort(np.array(channels, np.int64), axis=1)


def _check_coverage(traced: _Traced, graph: Any, couplings: list[Coupling]) -> None:
    covered: dict[tuple[str, str], list[int]] = {}
    for coupling in couplings:
        for name, side, index in coupling.layers:
            covered.setdefault((name, side), []).extend(index.ravel().tolist())
        for tap, channels in coupling.taps.items():
            covered.setdefault((tap, "tap"), []).extend(channels.tolist())
    for name, where, width in _expected(traced, graph):
        if sorted(covered.get((name, where), [])) != list(range(width)):
            what = "feature" if where == "tap" else f"{where}put"
            raise UserError(f"{name} cannot be pruned: its {what} channels cannot be followed")


def _expected(traced: _Traced, graph: Any) -> Iterator[tuple[str, str, int]]:
    """Name, side and channels of everything that must be covered."""
    for name, module in traced.network.named_modules():
        if name in traced.inputs or _is_inside(name, traced):
            continue
        if isinstance(module, CONVOLUTIONS):
            yield name, "out", module.out_channels
            reads_image = module in graph.module2node and not graph.module2node[module].inputs
            depthwise = 1 < module.groups == module.in_channels == module.out_channels
            if not depthwise and not reads_image:
                if module.groups > 1:
                    raise UserError(f"{name} cannot be pruned: it is a grouped convolution")
                yield name, "in", module.in_channels
        elif isinstance(module, nn.BatchNorm2d):
            yield name, "out", module.num_features
        elif module._parameters and type(module).__module__.startswith("torch."):
            raise UserError(f"{name} cannot be pruned: it is a {type(module).__name__}")
    for name, parameter in traced.free:
        yield name, "out", parameter.shape[1]
    for tap, probe in traced.probes.items():
        assert isinstance(probe, nn.Conv2d)
        yield tap, "tap", probe.in_channels


def _is_inside(name: str, traced: _Traced) -> bool:
    return any(
        name.startswith(f"{part}.") and not name.startswith(f"{part}.project.")
        for part in traced.inside
    )
