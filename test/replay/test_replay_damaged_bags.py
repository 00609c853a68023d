"""Damaged bags: what can be read is, what cannot is noted."""

import struct
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from mtc_perception.replay.recordings import storage as recordings
from mtc_perception.replay.recordings.mcap import chunk_content
from mtc_perception.replay.recordings.recording import (
    BrokenPixels,
    RawPixels,
    SourceError,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.storage import zstd
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
from support.replay_rig import evaluate, read
from support.small_disk import on_small_disk


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no zstd", "cannot be decompressed"), (zstd.compress(b"x"), "cannot be read as a rosbag2")],
)
def test_a_packed_file_that_cannot_be_read_is_named_itself(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.db3.zstd"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"^{path} {reason}"):
        open_source(path)


def test_files_that_were_unpacked_or_packed_since_are_those_that_are_listed(tmp_path: Path) -> None:
    bag = split_bag(tmp_path)
    for index in (2, 5):
        file = bag / f"split_{index}.mcap"
        file.with_name(f"{file.name}.zstd").write_bytes(zstd.compress(file.read_bytes()))
        file.unlink()
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("split_7.mcap", "split_7.mcap.zstd"))
    frames, notes = read(open_source(bag))
    assert len(frames) == 12
    assert not notes


def test_metadata_with_a_text_in_place_of_the_files_is_damaged(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    text = "rosbag2_bagfile_information:\n  relative_file_paths: bag.mcap\n"
    (bag / "metadata.yaml").write_text(text)
    frames, [note] = read(open_source(bag))
    assert len(frames) == COUNT
    assert str(note).endswith("relative_file_paths is 'bag.mcap', no list")


def noise_bag(
    path: Path,
    count: int,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
    *,
    larger: int = 1,
) -> tuple[Path, list[Any]]:
    """A bag of images that no compression makes small, and its messages."""
    random = np.random.default_rng(0)
    messages = []
    for index in range(count):
        message = raw(0)
        message.header.stamp = header(stamp(index)).stamp
        message.height *= larger
        message.width *= larger
        message.step *= larger
        size = message.data.size * larger * larger
        message.data = random.integers(0, 256, size, dtype=np.uint8)
        messages.append(message)
    return write_bag(path, {"/cam": (IMAGE, messages)}, storage, compression), messages


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
    bag, noise = noise_bag(tmp_path / "bag", 300, storage, compression)
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
    bag, _ = noise_bag(tmp_path / "bag", 500, compression=CompressionMode.STORAGE)
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
    assert [note.kind for note in notes] == ["damaged chunk"]


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


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_message_whose_compression_is_damaged_is_an_image_that_cannot_be_decoded(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage, CompressionMode.MESSAGE)
    file = storage_file(bag)
    content = bytearray(file.read_bytes())
    frame = -1
    for _ in range(3):
        frame = content.index(b"\x28\xb5\x2f\xfd", frame + 1)
    content[frame + 4 : frame + 12] = b"\xff" * 8  # the head of the third message's frame
    file.write_bytes(content)
    frames = list(open_source(bag).frames())
    assert [frame.index for frame in frames] == list(range(COUNT))
    broken = [frame.index for frame in frames if isinstance(frame.pixels, BrokenPixels)]
    assert len(broken) == 1


def test_a_split_bag_is_read_on_behind_a_file_that_turns_out_to_be_damaged(tmp_path: Path) -> None:
    """Its index is sound, its only chunk is not."""
    bag = split_bag(tmp_path, CompressionMode.STORAGE)
    spoil(bag / "split_0.mcap")
    indices, notes = read(open_source(bag))
    assert indices == list(range(11))
    assert [note.kind for note in notes] == ["damaged chunk", "unreadable file"]
    assert "split_0.mcap" in notes[1].first


def test_a_bag_of_nothing_but_damaged_chunks_is_an_error_that_names_it(tmp_path: Path) -> None:
    bag = split_bag(tmp_path, CompressionMode.STORAGE)
    for index in range(12):
        spoil(bag / f"split_{index}.mcap")
    with pytest.raises(SourceError, match=r"split_0.mcap cannot be read as a rosbag2"):
        read(open_source(bag))


def spoil(file: Path) -> None:
    """Damage the compressed content of the file's only chunk."""
    content = bytearray(file.read_bytes())
    chunk = content.index(b"\x28\xb5\x2f\xfd")
    content[chunk : chunk + 4] = bytes(4)
    file.write_bytes(content)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts the bytes read")
@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.SQLITE3, None),
    ],
)
def test_a_cut_off_recording_is_read_at_most_twice(
    tmp_path: Path, toy_bundle: Path, storage: StoragePlugin, compression: CompressionMode | None
) -> None:
    """By a whole evaluation: to plan it, and to replay it."""
    costs, sizes = [], []
    for index, larger in enumerate((3, 3, 12)):  # the first one loads what later ones have
        bag, _ = noise_bag(tmp_path / str(index), 20, storage, compression, larger=larger)
        file = storage_file(bag)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * 0.98)])
        before = bytes_read()
        evaluate(tmp_path / f"run_{index}", toy_bundle, bag)
        costs.append(bytes_read() - before)
        sizes.append(file.stat().st_size)
    assert costs[2] - costs[1] < 2 * sizes[2]


def bytes_read() -> int:
    """By this process, so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


BOMB = """
import os, sys, tempfile
os.environ["TMPDIR"] = os.getcwd()
from pathlib import Path
from mtc_perception.replay.recordings.bag_files import BagFiles
from mtc_perception.util.errors import UserError
try:
    BagFiles(Path("bag")).summary()
except UserError as error:
    print(error)
"""


@pytest.mark.fault(
    area="replay",
    row="a compressed recording unpacks to more than fits onto the disk",
    answer="Unpacking stops before the disk is full; nothing of it is left.",
    diagnostics="One line with the folder, and how to name another.",
)
def test_a_recording_that_unpacks_without_end(tmp_path: Path) -> None:
    bag = tmp_path / "disk" / "bag"
    bag.mkdir(parents=True)
    (bag / "bag_0.db3.zstd").write_bytes(zstd.compress(bytes(1 << 28)))
    assert (bag / "bag_0.db3.zstd").stat().st_size < 33_000
    ended = on_small_disk(bag.parent, 100 << 10, ["-c", BOMB])
    assert ended.output.startswith("bag/bag_0.db3.zstd unpacks to more than fits into "), ended
    assert [path.name for path in ended.disk.iterdir()] == ["bag"]


@pytest.mark.fault(
    area="replay",
    row="a message or a chunk of a recording unpacks to more than memory holds",
    answer="It is noted as damaged, and the rest is read.",
    diagnostics="The note says how much is held in memory at most.",
)
def test_messages_and_chunks_that_unpack_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MOST_UNPACKED_BYTES", 1 << 20)
    whole, endless = bytes(1 << 20), bytes((1 << 20) + 1)
    assert recordings.message_bytes(zstd.compress(whole)) == whole
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB"):
        recordings.message_bytes(zstd.compress(endless))
    with pytest.raises(ValueError, match="cut off"):
        recordings.message_bytes(zstd.compress(whole)[:-3])
    for name, compress in (("zstd", zstd.compress), ("lz4", lz4.frame.compress)):
        for content, said, reason in (
            (endless, len(endless), "unpacks to more than 1 MiB"),
            (endless, 1 << 19, "another size than it says"),
            (whole, 1 << 63, "unpacks to more than 1 MiB"),
        ):
            packed = compress(content)
            head = struct.pack("<QQQII", 0, 0, said, 0, len(name)) + name.encode()
            body = head + struct.pack("<Q", len(packed)) + packed
            if name == "zstd" and reason.startswith("another"):
                assert len(chunk_content(memoryview(body))) == said  # cut off where it says
                continue
            with pytest.raises(ValueError, match=reason):
                chunk_content(memoryview(body))
