"""Damaged bags: what can be read is, what cannot is noted."""

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from mtc_perception.replay.recordings.recording import (
    RawPixels,
    SourceError,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.util.errors import ImageError
from support.bag_messages import (
    COUNT,
    IMAGE,
    STORE,
    header,
    images,
    raw,
    split_bag,
    stamp,
    storage_file,
    write_bag,
)
from support.replay_rig import read


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, None),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
)
@pytest.mark.parametrize("keep", [0.6, 0.98])
def test_what_a_truncated_bag_still_holds_is_read(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode | None, keep: float
) -> None:
    random = np.random.default_rng(0)
    noise = [raw(0) for _ in range(300)]
    for index, message in enumerate(noise):  # nothing that compression could make small
        message.header.stamp = header(stamp(index)).stamp
        message.data = random.integers(0, 256, message.data.size, dtype=np.uint8)
    topics = {"/cam": (IMAGE, noise)}
    bag = write_bag(tmp_path / "bag", topics, storage, compression)
    file = storage_file(bag)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    indices, notes = read(open_source(bag))
    assert indices == list(range(len(indices)))
    assert 0.25 * keep * 300 < len(indices) < 300
    assert "truncated file" in {note.kind for note in notes}
    frames = list(open_source(bag).frames())
    assert [frame.stamp_ns for frame in frames] == [stamp(index) for index in indices]
    last = frames[-1].pixels
    assert isinstance(last, RawPixels)
    assert np.array_equal(last.data, noise[len(indices) - 1].data)


def test_a_bag_with_a_damaged_middle_is_read_around_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = [raw(0) for _ in range(500)]
    for index, message in enumerate(noise):
        message.header.stamp = header(stamp(index)).stamp
        message.data = random.integers(0, 256, message.data.size, dtype=np.uint8)
    bag = write_bag(
        tmp_path / "bag",
        {"/cam": (IMAGE, noise)},
        StoragePlugin.MCAP,
        CompressionMode.STORAGE,
    )
    file = storage_file(bag)
    content = bytearray(file.read_bytes())
    chunk = content.index(b"\x28\xb5\x2f\xfd", len(content) // 2)  # begins each compressed chunk
    content[chunk : chunk + 4] = bytes(4)
    file.write_bytes(content)
    indices, notes = read(open_source(bag))
    assert indices == list(range(len(indices)))
    stamps = [frame.stamp_ns for frame in open_source(bag).frames()]
    assert stamps == sorted(set(stamps))
    # All but the one chunk of three.
    assert (stamps[0], stamps[-1]) == (stamp(0), stamp(499))
    assert 300 < len(stamps) < 450
    assert [note.kind for note in notes] == ["damaged file", "damaged chunk"]


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("keep", [0, 4, 200])
def test_a_bag_without_anything_readable_is_an_error_that_names_it(
    tmp_path: Path, storage: StoragePlugin, keep: int
) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage)
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError, match=rf"{file.name} cannot be read as a rosbag2"):
        open_source(bag)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("content", [None, "rosbag2_bagfile_information: [", "files: 3"])
def test_a_bag_without_usable_metadata_is_read(
    tmp_path: Path, storage: StoragePlugin, content: str | None
) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage)
    (bag / "metadata.yaml").unlink()
    if content is not None:
        (bag / "metadata.yaml").write_text(content)
    indices, notes = read(open_source(bag))
    assert indices == list(range(COUNT))
    assert [note.kind for note in notes] == ["damaged metadata" if content else "no metadata"]


def test_a_file_that_was_renamed_is_found(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    file = storage_file(bag)
    file.rename(file.with_stem("highway"))
    indices, notes = read(open_source(bag))
    assert indices == list(range(COUNT))
    [note] = notes
    assert note.kind == "missing file"
    assert note.first.startswith(file.name)


def test_a_split_bag_is_read_without_its_missing_and_broken_files(tmp_path: Path) -> None:
    bag = split_bag(tmp_path)
    (bag / "split_3.mcap").unlink()
    (bag / "split_5.mcap").write_bytes(b"no mcap")
    frames, notes = read(open_source(bag))
    assert len(frames) == 10
    assert [(note.kind, note.count) for note in notes] == [
        ("missing file", 1),
        ("unreadable file", 1),
    ]
    assert "split_3.mcap" in notes[0].first


def test_messages_that_are_damaged_are_images_that_cannot_be_decoded(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/cam", IMAGE, typestore=STORE)
        for index in range(3):
            data = STORE.serialize_cdr(raw(index), IMAGE)
            writer.write(connection, stamp(index), data[: 20 if index == 1 else len(data)])
    frames = list(open_source(bag).frames())
    assert [frame.index for frame in frames] == [0, 1, 2]
    with pytest.raises(ImageError, match="/cam: "):
        frames[1].pixels.decode()
    assert frames[1].stamp_ns == stamp(1)  # the time of recording is left
