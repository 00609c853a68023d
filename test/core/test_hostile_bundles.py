"""Bundles from somebody who means harm: refused in one line, before they cost memory or time."""

import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from mtc_perception.core.bundle import (
    MOST_MANIFEST_BYTES,
    parse_manifest,
    read_bundle,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.bundle_files import MOST_FILE_BYTES
from mtc_perception.core.engine import Network
from mtc_perception.core.onnx_file import check_self_contained
from mtc_perception.engines.load import load_engine
from mtc_perception.engines.open import open_engine
from mtc_perception.util.errors import BundleError, UserError, one_line
from support.toy_bundle import MAX_DETECTIONS, toy_manifest, toy_model, write_toy_bundle

PATIENCE_S = 2.0


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy.mtc")


def refusal(path: Path) -> str:
    begin = time.monotonic()
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    assert time.monotonic() - begin < PATIENCE_S
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 3000
    return message


def zipped(bundle: Path, change: Callable[[zipfile.ZipFile], None] = lambda _: None) -> Path:
    """The bundle as a zip file with something more in it."""
    path = bundle.with_name("hostile.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)
        change(archive)
    return path


@pytest.mark.fault(
    area="bundle",
    row="a zip file of a few kB unpacks to a GB",
    answer="Refused by what it declares, before anything is unpacked.",
    diagnostics="One line with both sizes.",
)
@pytest.mark.parametrize("truthful", [True, False], ids=["declared", "packed size is a lie"])
def test_a_zip_bomb(bundle: Path, truthful: bool) -> None:
    (bundle / "model.onnx").unlink()
    path = bundle.with_name("bomb.zip")
    size = MOST_FILE_BYTES // 4
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bundle / "manifest.json", "manifest.json")
        with archive.open("model.onnx", "w") as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    if not truthful:
        packed = zipfile.ZipFile(path).getinfo("model.onnx").compress_size
        path.write_bytes(path.read_bytes().replace(struct.pack("<I", packed), b"\0\0\0\7"))
    tracemalloc.start()
    message = refusal(path)
    assert f"model.onnx unpack to {size}, the most is 100 times as much" in message
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.fault(
    area="bundle",
    row="a file of a bundle is larger than any network",
    answer="Refused by its size; one that may be so large is verified without holding it.",
    diagnostics="One line with its size and the limit.",
)
def test_sizes_are_limited_and_large_files_verified_in_parts(bundle: Path) -> None:
    model = bundle / "model.onnx"
    with model.open("r+b") as file:
        file.truncate(MOST_FILE_BYTES + 1)  # a hole, which takes no disk
    assert f"model.onnx has {MOST_FILE_BYTES + 1} bytes, the most is" in refusal(bundle)
    with model.open("r+b") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    assert "is damaged" in refusal(bundle)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.fault(
    area="bundle",
    row="a manifest of many MB",
    answer="Refused by its size; one within it is refused or read in a tenth of a second.",
    diagnostics="One line with its size and the limit.",
)
def test_a_giant_manifest(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    with manifest.open("r+b") as file:
        file.truncate(200 << 20)
    assert f"the most is {MOST_MANIFEST_BYTES}" in refusal(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {f"x{number}": 0 for number in range(20_000)},
        {"variants": {str(number): 0 for number in range(20_000)}},
        {"lineage": [{}] * 60_000},
        {"classes": [0] * 60_000},
        {"training": {"data": [0] * 60_000, "licence": "x"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_full_of_mistakes_costs_little(bundle: Path, change: dict) -> None:
    content = json.loads((bundle / "manifest.json").read_text()) | change
    data = json.dumps(content, separators=(",", ":")).encode()
    assert len(data) < MOST_MANIFEST_BYTES
    begin = time.process_time()
    with pytest.raises(BundleError):
        parse_manifest(data)
    assert time.process_time() - begin < 1.0  # a tenth of that on an idle machine


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "toy\x1b[2J"}, "name: "),
        ({"classes": ["car\nbus", "van"]}, "classes.0: "),
        ({"version": "1" * 101}, "version: "),
        ({"max_detections": 10**9}, "max_detections: "),
        ({"input": {"height": 10**6, "width": 10**6}}, "input.height: "),
    ],
)
def test_a_manifest_that_asks_too_much(bundle: Path, change: dict, field: str) -> None:
    content = json.loads((bundle / "manifest.json").read_text()) | change
    (bundle / "manifest.json").write_text(json.dumps(content))
    assert f"manifest.json: {field}" in refusal(bundle)


@pytest.mark.fault(
    area="bundle",
    row="names in a zip file that lead out of it, or occur twice",
    answer="Refused.",
    diagnostics="One line with the name.",
)
@pytest.mark.parametrize(
    "name",
    ["/manifest.json", "../manifest.json", "a/../../x", "a\\..\\x", "./model.onnx", "a//b", ".."],
)
def test_names_that_lead_out(bundle: Path, name: str) -> None:
    assert "leads out of it" in refusal(zipped(bundle, lambda zip: zip.writestr(name, b"x")))


def test_names_that_lead_out_alone(bundle: Path) -> None:
    path = bundle.with_name("alone.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, f"../{file.name}")
        archive.getinfo("../manifest.json").filename = "/manifest.json"
    assert "leads out of it" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_occur_twice(bundle: Path) -> None:
    path = zipped(bundle, lambda zip: zip.writestr("manifest.json", b"{}"))
    assert "3 members, 2 names" in refusal(path)


@pytest.mark.fault(
    area="bundle",
    row="a zip file with thousands of members, or with a table of contents of many MB",
    answer="Refused before its table is taken apart.",
    diagnostics="One line with the number.",
)
@pytest.mark.parametrize("count", [101, 5_000])
def test_too_many_members(bundle: Path, count: int) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        for number in range(count):
            archive.writestr(str(number), b"")

    message = refusal(zipped(bundle, fill))
    assert ("a part of it has" if count > 1000 else f"{count + 2} members") in message


def test_a_model_file_name_with_a_line_end(bundle: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    content["variants"]["fp32"]["file"] = "model.onnx\n"
    (bundle / "manifest.json").write_text(json.dumps(content))
    (bundle / "model.onnx").rename(bundle / "model.onnx\n")
    assert "is not a plain file name" in refusal(bundle)


@pytest.mark.fault(
    area="bundle",
    row="a FIFO or a device in the place of a bundle or of one of its files",
    answer="Refused without opening it, at once.",
    diagnostics="One line: not a regular file.",
)
@pytest.mark.parametrize("place", ["", "manifest.json", "model.onnx"])
def test_a_fifo(bundle: Path, place: str) -> None:
    path = bundle / place if place else bundle.with_name("fifo.mtc")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert "not a regular file" in refusal(bundle if place else path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_behind_a_link(bundle: Path, device: str) -> None:
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").symlink_to(device)
    assert "not a regular file" in refusal(bundle)
    assert "not a regular file" in refusal(Path(device))


def test_links_to_regular_files_are_read(bundle: Path) -> None:
    # `colcon build --symlink-install` makes such bundles.
    linked = bundle.with_name("linked.mtc")
    linked.mkdir()
    for file in bundle.iterdir():
        (linked / file.name).symlink_to(file)
    assert read_bundle(linked).manifest == read_bundle(bundle).manifest


@pytest.mark.fault(
    area="bundle",
    row="a zip file that is encrypted or packed by an uncommon method",
    answer="Refused.",
    diagnostics="One line that says which, and how to zip it.",
)
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_of_other_methods(bundle: Path, method: int) -> None:
    path = bundle.with_name("other.zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)
    assert "by a method that is not read" in refusal(path)


@pytest.mark.parametrize(
    ("flag", "reason"), [(0x01, "is encrypted"), (0x20, "patched data"), (0x40, "encryption")]
)
def test_zips_with_flags_that_are_not_read(bundle: Path, flag: int, reason: str) -> None:
    path = zipped(bundle)
    entry = b"PK\1\2\x14\x03\x14\0"  # in the table of contents; its flags follow
    assert path.read_bytes().count(entry + b"\0") == 2
    path.write_bytes(path.read_bytes().replace(entry + b"\0", entry + bytes([flag])))
    assert reason in refusal(path)


def test_a_name_that_is_no_text(bundle: Path) -> None:
    path = zipped(bundle)
    data = bytearray(path.read_bytes())
    for name in (b"manifest.json", b"model.onnx"):
        at = data.index(name)
        data[at - 23] |= 0x08  # of the local header's flags: the name is UTF-8
        data[at] = 0xE3
    path.write_bytes(data)
    assert "cannot read manifest.json" in refusal(path)


@pytest.mark.fault(
    area="security",
    row="names with escape codes, line ends or a length of 100 kB",
    answer="Messages show them escaped, and without their middle.",
    diagnostics="One line fit for a terminal and a log.",
)
def test_names_in_messages(tmp_path: Path) -> None:
    assert "\\x1b[2J" in refusal(tmp_path / "\x1b[2J\r\nroot.mtc")
    assert refusal(Path("x" * 100_000)).endswith("no such bundle, or no permission to read it")
    assert "\\udc80" in refusal(tmp_path / "\udc80\u202e.mtc")
    assert one_line(ValueError("a\x00b\u2028c")) == "ValueError: a\\x00b c"
    assert str(UserError("e" * 10_000)).count("e") == 2000
    # What is quoted stays in lines of its own; where there is room for one alone it does not.
    quoting = UserError("its last words:\n  \x1b[31mone\n  two\nthree")
    assert str(quoting) == "its last words:\n  \\x1b[31mone\n  two three"
    assert one_line(quoting) == "its last words: \\x1b[31mone two three"
    assert len(str(UserError("\n  x" * 100_000))) < 3000


def external(tensor: onnx.TensorProto, location: str = "weights.bin") -> onnx.TensorProto:
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def toy_with_external_weights() -> bytes:
    """The toy network; some of its numbers lie in the file weights.bin."""
    model = onnx.load_model_from_string(toy_model(96, 160))
    (corners,) = (tensor for tensor in model.graph.initializer if tensor.name == "corners")
    Path("weights.bin").write_bytes(corners.raw_data)
    external(corners)
    return model.SerializeToString()


@pytest.mark.fault(
    area="security",
    row="a network whose weights lie in another file (ONNX external data)",
    answer="Refused wherever a network goes into an engine or comes out of a bundle, although the"
    " file is there.",
    diagnostics="One line that names external data.",
)
def test_weights_in_the_working_directory(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = toy_with_external_weights()
    golden = read_bundle(bundle).manifest.self_test["fp32"]
    write_bundle(bundle, toy_manifest(model, 96, 160, golden), {"model.onnx": model})
    with pytest.raises(UserError, match="external data"):
        open_engine(read_bundle(bundle), "onnxruntime")
    with pytest.raises(BundleError, match="external data"):
        load_engine(Network(model, "fp32", 96, 160, MAX_DETECTIONS), "openvino")
    # What is refused would have run.
    onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def node(tensor: onnx.TensorProto, **fields: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["x"], value=tensor, **fields)


def graph(*nodes: onnx.NodeProto, **fields: object) -> onnx.GraphProto:
    return helper.make_graph(nodes, "graph", [], [], **fields)


TENSOR = external(numpy_helper.from_array(np.zeros(4, np.float32), "w"))
INSIDE = helper.make_node("If", ["c"], ["x"], then_branch=graph(node(TENSOR)), else_branch=graph())
SPARSE = onnx.SparseTensorProto(values=TENSOR, dims=[4])
LOCATION_ALONE = onnx.TensorProto(name="w", data_location=TensorProto.EXTERNAL)


@pytest.mark.parametrize(
    "where",
    [
        helper.make_model(graph(initializer=[TENSOR])),
        helper.make_model(graph(initializer=[LOCATION_ALONE])),
        helper.make_model(graph(node(TENSOR))),
        helper.make_model(graph(INSIDE)),
        helper.make_model(graph(helper.make_node("If", ["c"], ["x"], then_branch=graph(INSIDE)))),
        helper.make_model(graph(sparse_initializer=[SPARSE])),
        helper.make_model(graph(helper.make_node("Constant", [], ["x"], sparse_value=SPARSE))),
        helper.make_model(graph(helper.make_node("Own", [], ["x"], values=[TENSOR]))),
        helper.make_model(
            graph(), functions=[onnx.FunctionProto(name="f", domain="d", node=[node(TENSOR)])]
        ),
        onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=graph(node(TENSOR)))]),
    ],
)
def test_external_data_is_found_wherever_it_hides(where: onnx.ModelProto) -> None:
    with pytest.raises(BundleError, match="external data"):
        check_self_contained(where.SerializeToString())


def varint(value: int) -> bytes:
    """As protobuf writes a number, least significant bits first."""
    head = bytes(value >> shift & 0x7F | 0x80 for shift in range(0, value.bit_length() - 7, 7))
    return head + bytes([value >> 7 * len(head)])


def in_field(number: int, content: bytes, wide: int = 0) -> bytes:
    """A field of bytes; `wide` is or-ed to the 32 bits of its tag."""
    return varint(number << 3 | 2 | wide) + varint(len(content)) + content


@pytest.mark.parametrize("wide", [0, 1 << 32, 5 << 40])
def test_external_data_does_not_hide_in_bits_that_readers_drop(wide: int) -> None:
    entry = onnx.StringStringEntryProto(key="location", value="weights.bin").SerializeToString()
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=1).SerializeToString()
    tensor += in_field(13, entry, wide)
    tensor += varint(14 << 3 | wide) + b"\x01"
    with pytest.raises(BundleError, match="no ONNX file" if wide else "external data"):
        check_self_contained(in_field(7, in_field(5, tensor)))


def test_what_is_no_onnx_file() -> None:
    whole = toy_model(96, 160)
    check_self_contained(whole)
    others = (
        b"",
        b"<?xml version='1.0'?><net/>",
        b"\x13\x13",
        b"\x08\x07",  # fields, but no graph
        whole + b"\x00\x00",  # there is no field 0
        whole[:-1],
        b"\x80" * 20,
    )
    for other in others:
        with pytest.raises(BundleError, match="no ONNX file"):
            check_self_contained(other)
    with pytest.raises(BundleError, match="more than 2000000 fields"):
        check_self_contained(b"\x08\x01" * 3_000_000)


def test_a_hash_is_checked_before_a_graph(bundle: Path) -> None:
    opened = read_bundle(bundle)
    (bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="damaged"):
        Network.of(opened, "fp32")
    assert opened.manifest.variants["fp32"].sha256 == sha256_hex(toy_model(96, 160))
