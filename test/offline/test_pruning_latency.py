"""Latency tables: layers are found in profiles, fits are exact where they can be, and real."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import keep_channels
from offline_compress.evaluation import latency as timing
from offline_compress.export import deployed, onnx_graph
from offline_compress.pruning import latency_table
from offline_compress.pruning import profiler as profiling
from offline_compress.pruning.cost import KINDS, LayerCosts, layer_cost, layer_costs
from offline_compress.pruning.latency_table import (
    LatencySample,
    LatencyTable,
    Misfit,
    fit_layer,
    measure_table,
    sample_counts,
    time_networks,
    with_latency,
)
from offline_compress.pruning.profiler import EngineName, layer_times_ms, node_layers, profiler
from support.pruning_tools import FULL_DECODER, HEIGHT, WIDTH, network, registry_groups, spec_of

MS = KINDS.index("latency")


@cache
def xs() -> tuple[nn.Module, list[ChannelGroup], LayerCosts]:
    model = network(spec_of("mtc_xs"))
    groups = registry_groups(model)
    return model, groups, layer_costs(model, groups, (torch.zeros(1, 3, HEIGHT, WIDTH),))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mtc_xs", "mtc_s_lite0", FULL_DECODER])
def test_every_layer_that_can_shrink_is_found_in_the_graph(name: str) -> None:
    model = network(spec_of(name))
    graph = onnx.load_model_from_string(onnx_graph(model, HEIGHT, WIDTH))
    layer_of = node_layers(graph, model)
    layers = {
        part.layer
        for group in registry_groups(model)
        if not group.protected
        for part in group.slices
        if isinstance(dict(model.named_modules()).get(part.layer), (nn.Conv2d, nn.ConvTranspose2d))
    }
    folded = {layer for layer in layers if ".point." in layer}
    shapes = {t.name: list(t.dims) for t in graph.graph.initializer}
    found = set()
    for node in graph.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in shapes:
            layer = layer_of[node.name]
            # The node has the layer's weights: its name was read correctly.
            assert shapes[node.input[1]] == list(model.get_submodule(layer).weight.shape)
            found.add(layer)
    assert layers - folded <= found


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_profile_of_an_engine_belongs_to_layers(engine: EngineName) -> None:
    model, _, _ = xs()
    graph = onnx_graph(model, HEIGHT, WIDTH)
    profiled = profiler(engine, graph, HEIGHT, WIDTH)
    for _ in range(3):
        profiled.run()
    times_ms = profiled.node_times_ms()
    layers_ms = layer_times_ms(times_ms, onnx.load_model_from_string(graph), model)
    convolutions = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions <= set(layers_ms)
    assert set(layers_ms) <= convolutions | {""}
    assert sum(layers_ms.values()) == pytest.approx(sum(times_ms.values()))
    assert all(layers_ms[name] > 0 for name in convolutions)


def test_a_layer_is_fitted_exactly_and_never_falls_with_width() -> None:
    generator = np.random.default_rng(0)
    cin, cout = generator.integers(8, 64, (2, 9)).astype(float)
    wanted = np.array([0.2, 0.01, 0.0, 0.003])
    terms = np.stack((np.ones(9), cin, cout, cin * cout), 1)
    np.testing.assert_allclose(fit_layer(cin, cout, terms @ wanted), wanted, atol=1e-9)
    noisy = fit_layer(cin, cout, generator.random(9))
    assert (noisy >= 0).all()
    fixed = fit_layer(np.full(9, 3.0), np.full(9, 1.0), np.full(9, 0.7))
    assert layer_cost(fixed[None, :, None], np.array([3.0]), np.array([1.0])).item() == (
        pytest.approx(0.7)
    )


def table_of(costs: LayerCosts, counts: Sequence[dict[str, int]]) -> LatencyTable:
    """What would be measured if time were proportional to multiply-accumulates, half of it seen by
    the profiler, plus 1.5 ms."""
    samples = []
    for own in counts:
        macs = layer_cost(costs.coefficients, *costs.widths(own))[:, 1]
        layers_ms = dict(zip(costs.layers, (macs * 1e-6).tolist(), strict=True))
        samples.append(LatencySample(own, float(macs.sum() * 2e-6 + 1.5), layers_ms))
    return LatencyTable("openvino", HEIGHT, WIDTH, samples, samples[0].total_ms, {})


def test_predictions_between_the_measured_widths(tmp_path: Path) -> None:
    _, groups, costs = xs()
    table = table_of(costs, sample_counts(groups, 8))
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table
    fitted = with_latency(costs, table)
    generator = np.random.default_rng(5)
    unseen = {
        name: int(generator.integers(1, size + 1))
        for name, size in zip(costs.groups, costs.sizes.tolist(), strict=True)
    }
    assert fitted.total(unseen)[MS] == pytest.approx(
        table_of(costs, [unseen]).samples[0].total_ms, rel=1e-3
    )
    np.testing.assert_array_equal(fitted.total(unseen)[:MS], costs.total(unseen)[:MS])
    (tmp_path / "t.json").write_text('{"engine": 1}')
    with pytest.raises(UserError, match=r"t\.json is no latency table"):
        LatencyTable.load(tmp_path / "t.json")


def test_times_that_no_widths_explain_are_refused() -> None:
    _, groups, costs = xs()
    table = table_of(costs, sample_counts(groups, 8))
    for total_ms in ([1, 9] * 4, [1, 2, 3, 4] * 2):  # nothing to do with widths, and against them
        samples = [
            replace(sample, total_ms=float(time_ms))
            for sample, time_ms in zip(table.samples, total_ms, strict=True)
        ]
        with pytest.raises(Misfit, match="too busy to measure latency"):
            with_latency(costs, replace(table, samples=samples))


def test_samples_cover_several_widths_of_every_group() -> None:
    _, groups, _ = xs()
    counts = sample_counts(groups, 8)
    assert counts[0] == {g.name: g.size for g in groups if not g.protected}
    for group in groups:
        if not group.protected:
            seen = {own[group.name] for own in counts}
            assert len(seen) >= min(3, group.size // 8)
            assert all(n % 8 == 0 or n == group.size for n in seen)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_measured_table_predicts_an_unseen_width(
    engine: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loosely: within 25 % of the ratio of measured times, in one of five attempts."""
    monkeypatch.setattr(timing, "LOADS", 1)
    monkeypatch.setattr(timing, "BLOCKS", 6)
    monkeypatch.setattr(timing, "RUNS_PER_BLOCK", 3)
    monkeypatch.setattr(latency_table, "ROUNDS", 6)
    monkeypatch.setattr(latency_table, "MIXED", 2)
    for module in (timing, profiling):  # of which a busy machine has one at most
        monkeypatch.setattr(module, "THREADS", 1)
    size = (160, 256)
    model, groups, _ = xs()
    costs = layer_costs(model, groups, (torch.zeros(1, 3, *size),))
    full = sample_counts(groups, 8)[0]
    unseen = {name: -(-count * 5 // 8 // 8) * 8 for name, count in full.items()}
    narrow = copy.deepcopy(model)
    keep_channels(narrow, groups, {name: range(count) for name, count in unseen.items()})
    failures = []
    for _ in range(5):
        told: list[str] = []
        table = measure_table(
            model,
            groups,
            partial(deployed, height=size[0], width=size[1]),
            engine,
            8,
            model,
            lambda what, _d, _t, told=told: told.append(what),
        )
        assert set(told) == {"exporting networks", "timing networks", "profiling networks"}
        try:
            fitted = with_latency(costs, table)
        except Misfit as busy:  # the machine does other things, too
            failures.append(str(busy))
            continue
        totals = [fitted.total(sample.counts)[MS] for sample in table.samples[:4]]
        whole_ms, part_ms = time_networks(
            [deployed(model, *size), deployed(narrow, *size)], engine, lambda _d, _t: None
        )
        predicted = fitted.total(unseen)[MS] / fitted.total(full)[MS]
        error = abs(predicted / (part_ms / whole_ms) - 1)
        if error < 0.25 and (np.diff(totals) < 0).all():
            return
        failures.append(f"relative error {error}, at falling widths {totals} ms")
    raise AssertionError(failures)
