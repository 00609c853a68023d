"""Training samples: decoded within a budget, by any number of workers, always the same ones."""

import multiprocessing
import pickle
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.util.errors import UserError
from offline_compress.data import cache, loader_workers
from offline_compress.data.augment import LabelledImage
from offline_compress.data.batch import collate
from offline_compress.data.cache import DecodedImages, memory_budget_bytes, size_bytes
from offline_compress.data.dataset import TrainingSet, View, cumulative_shares, load_labelled
from offline_compress.data.loader_workers import (
    MOST_WORKERS,
    start_worker,
    usable_cores,
    worker_count,
)
from offline_compress.data.targets import IGNORE
from offline_compress.recipe.parts import DataSource, InputPx
from offline_compress.training.samples import batches
from support import mini_data as mini

SIZE = InputPx(height=32, width=64)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[DataSource]:
    """A data set of each of three layouts, one of them without vehicle labels."""
    root = tmp_path_factory.mktemp("data")
    mini.bdd100k(root / "bdd")
    mini.rmt_ppad(root / "rmt")
    mini.project(root / "own")
    (root / "own/det/train.json").unlink()
    return [DataSource(root=root / name, split="train") for name in ("bdd", "rmt", "own")]


JITTER = (0.8, 1.2)


def training_set(sources: list[DataSource], mosaic: float = 0.0) -> TrainingSet:
    return TrainingSet(sources, SIZE, {0: View(SIZE, JITTER, mosaic)}, seed=5)


def same(a: LabelledImage, b: LabelledImage) -> None:
    for name in ("image", "boxes", "kinds", "drivable", "lane"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.has_boxes == b.has_boxes


@pytest.mark.parametrize("mosaic", [0.0, 0.5])
def test_samples_depend_on_their_number_alone(sources: list[DataSource], mosaic: float) -> None:
    plain, cached, partly = (training_set(sources, mosaic=mosaic) for _ in range(3))
    assert list(cached.decoded.fill()) == [(done, 9) for done in range(1, 10)]
    one = size_bytes(plain.decoded[0, True])
    assert [done for done, _ in partly.decoded.fill(int(4.5 * one))] == [1, 2, 3, 4]
    for number in (11, 3, 250, 3):
        same(plain[number], cached[number])
        same(plain[number], partly[number])


def test_workers_make_the_same_samples_in_the_same_order(sources: list[DataSource]) -> None:
    data = training_set(sources, mosaic=0.3)
    list(data.decoded.fill(0))
    loaders = [
        DataLoader(
            data,
            3,
            sampler=range(20, 32),
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=start_worker,
        )
        for workers in (0, 2)
    ]
    for batch, other in zip(*loaders, strict=True):
        torch.testing.assert_close(batch.images, other.images)
        torch.testing.assert_close(batch.targets.boxes, other.targets.boxes)
        torch.testing.assert_close(batch.targets.lane, other.targets.lane)


def test_each_view_is_for_its_samples(sources: list[DataSource]) -> None:
    first, last = View(SIZE, JITTER, 1.0), View(InputPx(height=64, width=96), (1.0, 1.0))
    closing = TrainingSet(sources, SIZE, {100: last, 0: first}, seed=5)
    before, after = (TrainingSet(sources, SIZE, {0: view}, seed=5) for view in (first, last))
    same(before[99], closing[99])
    same(after[100], closing[100])
    assert closing[100].image.shape == (64, 96, 3)


def test_partial_labels_stay_partial_in_every_layout(sources: list[DataSource]) -> None:
    for source in sources:
        data = training_set([source])
        _, b, c = (load_labelled(sample) for sample in data._samples)
        assert b.has_boxes == (source.root.name != "own")
        assert (b.drivable == 0).all()
        assert not c.has_boxes
        assert (c.drivable == IGNORE).all()
        assert (c.lane == IGNORE).all()
    # Whatever is drawn, a mosaic's tile without vehicle labels holds no background cells.
    made = [training_set(sources, mosaic=1.0)[number] for number in range(40)]
    mixed = [sample for sample in made if sample.has_boxes and (sample.kinds == -2).any()]
    assert mixed


def test_sources_are_drawn_by_weight(sources: list[DataSource]) -> None:
    weighted = [sources[0].model_copy(update={"weight": 3.0}), sources[1]]
    data = training_set(weighted)
    drawn: Counter[int] = Counter()
    image = data.decoded[0, False]

    def counted(index: int, _small: bool) -> LabelledImage:
        drawn.update([index])
        return image

    data.decoded = DecodedImages(counted, range(6))
    for number in range(2000):
        data._draw(View(SIZE), np.random.default_rng(number))
    first = sum(drawn[index] for index in range(3))
    assert first / 2000 == pytest.approx(0.75, abs=0.03)


def test_the_largest_random_number_still_draws_a_sample() -> None:
    below_one = np.nextafter(1.0, 0.0)
    for count in range(1, 500):
        ends = cumulative_shares([1 / count] * count)
        assert np.searchsorted(ends, below_one, side="right") < count


def test_often_drawn_images_are_kept_first(sources: list[DataSource]) -> None:
    data = training_set([sources[0], sources[1].model_copy(update={"weight": 5.0})])
    one = size_bytes(data.decoded[0, True])
    list(data.decoded.fill(3 * one + one // 2))
    assert sorted({index for index, _ in data.decoded._kept}) == [3, 4, 5]


def large(root: Path, width: int = 256, height: int = 144) -> DataSource:
    """Two images with all labels, of four times the size that is deployed."""
    for stem in "ab":
        mini.write_png(root / f"images/train/{stem}.jpg", mini.picture(height, width))
        mask = np.zeros((height, width), np.uint8)
        mask[height // 2 :] = 255
        mini.write_png(root / f"drivable/train/{stem}.png", mask)
        mask[:, : width // 2] = 0
        mini.write_png(root / f"lane/train/{stem}.png", mask)
    return DataSource(root=root, split="train")


def test_what_is_shown_small_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    source = large(tmp_path)
    crop = InputPx(height=64, width=64)
    small, whole = (
        TrainingSet([source], SIZE, {0: View(crop, (0.5, 1.5), 0.5)}, seed=3) for _ in range(2)
    )
    decoded = small.decoded
    assert decoded[0, True].image.shape == (36, 64, 3)
    assert decoded[0, True].reduced
    assert decoded[0, False].image.shape == (144, 256, 3)
    asked: list[bool] = []

    def always_whole(index: int, fewer: bool) -> LabelledImage:
        asked.append(fewer)
        return decoded[index, False]

    whole.decoded = DecodedImages(always_whole, range(2))
    for number in range(40):
        one, other = small[number], whole[number]
        # Between sharp edges of the masks, and of the noise that photometric changes add.
        labelled = (one.lane != IGNORE) & (other.lane != IGNORE)
        assert ((one.lane != other.lane) & labelled).mean() < 0.04
        assert (one.drivable != other.drivable).mean() < 0.04
        difference = np.abs(one.image.astype(int) - other.image)
        assert np.median(difference) <= 3
        assert difference.mean() < 8
    assert 0.4 < np.mean(asked) < 0.95


def test_workers_that_are_not_forked_read_what_is_kept(
    sources: list[DataSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = training_set(sources, mosaic=0.5)
    expected = [data[number] for number in range(4)]
    list(data.decoded.fill())
    content = pickle.dumps(data)
    monkeypatch.setattr("offline_compress.data.dataset.load_labelled", None)
    again = pickle.loads(content)
    for number, sample in enumerate(expected):
        same(again[number], sample)


def test_stretched_samples_fill_the_input(tmp_path: Path) -> None:
    source = large(tmp_path)
    stretched = InputPx(height=64, width=64, fit="stretch")
    scales = [
        TrainingSet([source], size, {}, seed=3)._draw(View(size), np.random.default_rng(0))[1]
        for size in (stretched, InputPx(height=64, width=64))
    ]
    # Decoded at half: the height needs no more.
    assert scales[0] == pytest.approx((64 / 128, 64 / 72))
    assert scales[1] == pytest.approx((64 / 64, 64 / 64))


def decode_in_part(part: int, parts: int, root: Path, budget: int, pipe: Any) -> None:
    loaded: list[tuple[int, bool]] = []
    data = training_set([DataSource(root=root, split="train")])

    def load(index: int, small: bool) -> LabelledImage:
        loaded.append((index, small))
        return data._load(index, small)

    images = DecodedImages(load, range(len(data)))
    list(images.fill(budget, part, parts))
    decoded = len(loaded)

    def everyones(ours: Any) -> Any:
        pipe.send(ours)
        return pipe.recv()

    images.share(everyones)
    ask = [(index, small) for index in range(len(data)) for small in (True, False)]
    digests = {key: images[key].image.tobytes() + images[key].lane.tobytes() for key in ask}
    pipe.send((loaded[:decoded], loaded[decoded:], len(images), digests))
    pipe.recv()


@pytest.mark.parametrize("enough", [True, False])
def test_processes_of_a_machine_share_what_each_decodes(tmp_path: Path, *, enough: bool) -> None:
    source = large(tmp_path)
    alone = training_set([source]).decoded
    small, whole = (size_bytes(alone[0, few]) for few in (True, False))
    budget = small + whole if enough else small
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for part in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=decode_in_part, args=(part, 2, tmp_path, budget, theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    everyones = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(everyones)
    told = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    expected = alone[0, True].image.tobytes() + alone[0, True].lane.tobytes()
    for part, (before, after, kept, digests) in enumerate(told):
        # Its own alone, and one more where that turned out not to fit.
        assert before == [(part, True), (part, False)]
        assert kept == (4 if enough else 2)
        assert set(after) == (set() if enough else {(0, False), (1, False)})
        assert digests == told[0][3]
        assert digests[0, True] == expected
    for _, places in everyones:
        once = {id(place): place for place in places.values()}.values()
        assert sum(length for place in once for _, length in place.spans) <= budget


@pytest.mark.parametrize("preloaded", [True, False])
def test_a_broken_file_is_one_line_wherever_it_is_found(tmp_path: Path, preloaded: bool) -> None:
    root = mini.project(tmp_path)
    (root / "lane/train/a.png").write_bytes(b"no mask")
    data = training_set([DataSource(root=root, split="train")])
    with pytest.raises(UserError) as failure, closing(batches(data, range(32), 4, False)) as stream:
        list(data.decoded.fill() if preloaded else stream)
    assert not multiprocessing.active_children()
    assert str(failure.value) == f"{root / 'lane/train/a.png'}: not a readable image"


def idle_worker(ready: Any) -> None:
    start_worker(0)
    ready.set()
    while True:
        time.sleep(60)


def test_a_worker_outlives_a_sigterm_to_all_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader_workers, "GRACE_S", 1)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=idle_worker, args=(ready,))
    worker.start()
    assert ready.wait(60)
    worker.terminate()
    worker.join(0.5)
    assert worker.is_alive()
    worker.join(60)
    assert worker.exitcode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 1, 3), (16, 1, 15), (16, 4, 3), (224, 8, MOST_WORKERS)],
)
def test_workers_fit_the_machine(cores: int, processes: int, workers: int) -> None:
    assert worker_count(cores, processes) == workers


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        (None, 8),
        ("max 100000", 8),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("1600000 100000", 8),
    ],
)
def test_cores_respect_the_containers_limit(
    limit: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_workers, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores() == cores


def test_a_split_without_any_label_is_refused(sources: list[DataSource], tmp_path: Path) -> None:
    mini.write_images(tmp_path / "images/train")
    bare = DataSource(root=tmp_path, split="train")
    with pytest.raises(LayoutError, match=rf"split train of {tmp_path} .*check-data {tmp_path}`"):
        training_set([sources[0], bare])


def test_processes_of_a_machine_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(16) == 3
    assert memory_budget_bytes() == pytest.approx(memory_budget_bytes(1) / 4, rel=0.1)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 300000\nactive_file 100000\n")
    assert memory_budget_bytes(2) == 600_000, "cached files count as free"
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_budget_bytes(1) > 10_000_000
