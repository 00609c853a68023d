"""The kernel's arithmetic on the host, its real compiler without a GPU, all of it with one."""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.images import PixelFormat, SourceImage
from mtc_perception.core.input_size import Fit
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.engines.tensorrt import device_letterbox
from mtc_perception.engines.tensorrt.cuda import (
    Device,
    DeviceBuffer,
    Stream,
    current_device,
    pinned_array,
)
from mtc_perception.engines.tensorrt.device_letterbox import (
    TOLERANCE,
    DeviceLetterbox,
    Geometry,
    check_kernel,
    compiled_kernel,
    geometry,
)
from mtc_perception.util.errors import EngineError, ImageError
from support.gpu import without_gpu
from support.simulated_gpu import SimulatedGpu, simulated_gpu

FORMATS: tuple[PixelFormat, ...] = ("rgb", "bgr", "rgba", "bgra", "mono")
CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
HOST_LOOP = """
#include "letterbox.cu"
void letterbox_host(const unsigned char* source, Geometry g, unsigned char* out) {
  for (int row = 0; row < g.dst_height; ++row)
    for (int column = 0; column < g.dst_width; ++column)
      letterbox_pixel(source, g, row, column, out + 3 * ((size_t)row * g.dst_width + column));
}
"""
ADA = Device("NVIDIA GeForce RTX 4090", "sm89", multiprocessors=128, memory_mib=24_080)
Kernel = Callable[[SourceImage, Letterbox], npt.NDArray[np.uint8]]


@pytest.fixture(scope="session")
def host_function(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kernel in a loop over its pixels, compiled for this machine's CPU."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("kernel")
    source, library = folder / "host.c", folder / "host.so"
    source.write_text(HOST_LOOP)
    include = Path(device_letterbox.__file__).parent
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{include}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).letterbox_host
    function.argtypes = [ctypes.c_void_p, Geometry, ctypes.c_void_p]
    function.restype = None
    return function


@pytest.fixture(scope="session")
def on_host(host_function: Any) -> Kernel:
    """What the kernel makes of an image."""

    def run(image: SourceImage, box: Letterbox) -> npt.NDArray[np.uint8]:
        packed = np.ascontiguousarray(image.pixels)
        out = np.full((box.dst_height, box.dst_width, 3), 7, np.uint8)
        host_function(packed.ctypes.data, geometry(image, box), out.ctypes.data)
        return out

    return run


def noise(height: int, width: int, pixel_format: PixelFormat, seed: int = 0) -> SourceImage:
    channels = CHANNELS[pixel_format]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return SourceImage(pixels[..., 0] if channels == 1 else pixels, pixel_format)


def by_opencv(image: SourceImage, box: Letterbox) -> npt.NDArray[np.uint8]:
    out = np.zeros((box.dst_height, box.dst_width, 3), np.uint8)
    box.write(image, out)
    return out


def worst(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other).max())


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 900),
    st.integers(1, 200),
    st.integers(1, 300),
    st.sampled_from(get_args(Fit)),
    st.sampled_from(FORMATS),
    st.integers(0, 9),
)
def test_kernel_is_opencvs_letterbox_to_one_grey_level(
    on_host: Kernel,
    src_height: int,
    src_width: int,
    height: int,
    width: int,
    fit: Fit,
    pixel_format: PixelFormat,
    seed: int,
) -> None:
    image = noise(src_height, src_width, pixel_format, seed)
    box = Letterbox.fit(src_height, src_width, height, width, fit)
    assert worst(on_host(image, box), by_opencv(image, box)) <= TOLERANCE


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize(
    ("height", "width"), [(720, 1280), (1080, 1920), (375, 1242), (1279, 717), (384, 640), (1, 1)]
)
def test_camera_sizes(on_host: Kernel, height: int, width: int, pixel_format: PixelFormat) -> None:
    image = noise(height, width, pixel_format)
    box = Letterbox.fit(height, width, 384, 640)
    expected = by_opencv(image, box)
    found = on_host(image, box)
    assert worst(found, expected) <= TOLERANCE
    # And no bias: what differs is rounding.
    assert abs(float(found.mean()) - float(expected.mean())) < 0.1


def test_an_image_of_the_networks_size_is_copied_exactly(on_host: Kernel) -> None:
    image = noise(96, 160, "bgr")
    found = on_host(image, Letterbox.fit(96, 160, 96, 160))
    np.testing.assert_array_equal(found, image.pixels[..., ::-1])


@pytest.mark.parametrize(
    ("shape", "pixel_format"), [((40, 40, 2), "bgr"), ((40, 40), "rgb"), ((40, 40, 1), "mono")]
)
def test_pixels_that_are_not_of_their_format_are_the_images_fault(
    shape: tuple[int, ...], pixel_format: PixelFormat
) -> None:
    image = SourceImage(np.zeros(shape, np.uint8), pixel_format)
    with pytest.raises(ImageError, match=f"values are not {pixel_format}"):
        geometry(image, Letterbox.fit(40, 40, 96, 160))


def test_a_kernel_that_computes_something_else_is_refused(on_host: Kernel) -> None:
    check_kernel(on_host)

    def wrong_colours(image: SourceImage, box: Letterbox) -> npt.NDArray[np.uint8]:
        return on_host(image, box)[..., ::-1]

    def only_interpolates(image: SourceImage, box: Letterbox) -> npt.NDArray[np.uint8]:
        rgb = cv2.resize(image.pixels[..., ::-1], (box.width, box.height))
        return on_host(
            SourceImage(rgb, "rgb"), Letterbox.fit(*rgb.shape[:2], *by_opencv(image, box).shape[:2])
        )

    for wrong in (wrong_colours, only_interpolates):
        with pytest.raises(EngineError, match=r"\d+ grey levels off"):
            check_kernel(wrong)


@pytest.fixture
def _nvrtc() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="pip install cuda-bindings")


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("capability", ["sm75", "sm87", "sm89", "sm120"])
def test_nvrtc_compiles_the_kernel(capability: str) -> None:
    code = compiled_kernel(capability)
    assert code.startswith(b"\x7fELF")
    assert b".text.letterbox\0" in code  # by the name that it is looked up with
    assert compiled_kernel(capability) is code


@pytest.mark.usefixtures("_nvrtc")
def test_a_gpu_that_nvrtc_does_not_know_is_refused() -> None:
    with pytest.raises(EngineError, match=r"NVRTC \d+\.\d+ does not compile for sm19"):
        compiled_kernel("sm19")


ASK = """
from mtc_perception.engines.tensorrt.device_letterbox import compiled_kernel
from mtc_perception.util.errors import EngineError
try:
    compiled_kernel("sm89")
except EngineError as error:
    print(error)
else:
    print("found elsewhere")
"""


@pytest.mark.usefixtures("_nvrtc")
def test_without_nvrtc_it_is_said_what_to_install(tmp_path: Path) -> None:
    """A Python that has everything but NVRTC's own package."""
    site = Path(np.__file__).parents[1]
    for entry in site.iterdir():
        if entry.name != "nvidia":
            (tmp_path / entry.name).symlink_to(entry)
    package = Path(device_letterbox.__file__).parents[2]
    (tmp_path / package.name).symlink_to(package)
    script = f"import sys; sys.path.append({str(tmp_path)!r})\n{ASK}"
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={},
    ).stdout
    if "found elsewhere" in said:
        pytest.skip("this machine has another NVRTC")
    assert "NVRTC cannot be loaded" in said
    assert said.strip().endswith("; pip install nvidia-cuda-nvrtc")
    assert len(said.splitlines()) == 1


class SimulatedDriver:
    """In place of the module `cuda.bindings.driver`; a launch runs the kernel on the host."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUstream = int

    def __init__(self, function: Any) -> None:
        self._function = function

    def cuModuleLoadData(self, _code: bytes) -> tuple[int, str]:
        return 0, "module"

    def cuModuleGetFunction(self, _module: str, name: bytes) -> tuple[int, str]:
        return 0, name.decode()

    def cuModuleUnload(self, _module: str) -> tuple[int]:
        return (0,)

    def cuLaunchKernel(self, _kernel: str, *launch: int) -> tuple[int]:
        blocks_x, blocks_y, _, threads_x, threads_y, *_, addresses, _ = launch
        arguments = (ctypes.c_size_t * 3).from_address(addresses)
        box = Geometry.from_address(arguments[1])
        assert blocks_x * threads_x >= box.dst_width
        assert blocks_y * threads_y >= box.dst_height
        source, out = (ctypes.c_void_p.from_address(arguments[i]) for i in (0, 2))
        self._function(source, box, out)
        return (0,)


@pytest.fixture
def gpu(host_function: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    driver = SimulatedDriver(host_function)
    monkeypatch.setattr(device_letterbox, "_driver", lambda: driver)
    monkeypatch.setattr(device_letterbox, "compiled_kernel", lambda _capability: b"")
    with simulated_gpu() as gpu:
        yield gpu


@pytest.mark.usefixtures("gpu")
def test_the_kernel_is_given_what_it_needs() -> None:
    check_device(ADA)


def test_memory_that_is_not_to_be_had_leaves_the_letterbox_as_it_was(gpu: SimulatedGpu) -> None:
    stream = Stream()
    letterbox = DeviceLetterbox(stream, ADA)
    found = pinned_array(96 * 160 * 3)
    out = DeviceBuffer(found.size)
    box = Letterbox.fit(100, 200, 96, 160)
    before = gpu.memory_bytes()
    letterbox.write(noise(100, 200, "rgb"), box, out.pointer)
    # The first image finds its buffers, up to full HD with an alpha channel.
    letterbox.write(noise(1080, 1920, "rgba"), Letterbox.fit(1080, 1920, 96, 160), out.pointer)
    assert gpu.memory_bytes() == before

    gpu.most_bytes = 1 << 20
    large = noise(1200, 1920, "rgba")
    with pytest.raises(EngineError, match=r"cudaErrorMemoryAllocation \(cudaMalloc\)"):
        letterbox.write(large, Letterbox.fit(1200, 1920, 96, 160), out.pointer)
    assert gpu.memory_bytes() == before
    image = noise(100, 200, "bgr")
    letterbox.write(image, box, out.pointer)
    stream.copy_to_host(found, out.pointer)
    stream.synchronise()
    expected = by_opencv(image, box)
    assert worst(found.reshape(expected.shape), expected) <= TOLERANCE

    gpu.most_bytes = 1 << 30
    letterbox.write(large, Letterbox.fit(1200, 1920, 96, 160), out.pointer)
    assert gpu.memory_bytes() > before
    letterbox.close()


@pytest.mark.usefixtures("_nvrtc")
@without_gpu
def test_without_a_driver_the_host_has_to_do_it() -> None:
    """The bindings raise errors of their own where they find no driver."""
    no_stream: Any = None
    with pytest.raises(EngineError, match=r"^CUDA: .*\(cuModuleLoadData\)$"):
        DeviceLetterbox(no_stream, ADA)


@pytest.mark.gpu
def test_the_gpu_does_what_opencv_does() -> None:
    check_device(current_device())


def check_device(device: Device) -> None:
    stream = Stream()
    letterbox = DeviceLetterbox(stream, device)
    found = pinned_array(384 * 640 * 3)
    network_input = DeviceBuffer(found.size)
    # Small, then larger, then small again: buffers grow and are used again.
    for height, width in ((100, 200), (1080, 1920), (375, 1242), (384, 640)):
        for pixel_format in FORMATS:
            whole = noise(height, width + 3, pixel_format)
            image = SourceImage(whole.pixels[:, :width], pixel_format)  # padded rows
            box = Letterbox.fit(height, width, 384, 640)
            letterbox.write(image, box, network_input.pointer)
            stream.copy_to_host(found, network_input.pointer)
            stream.synchronise()
            expected = by_opencv(image, box)
            assert worst(found.reshape(expected.shape), expected) <= TOLERANCE
    letterbox.close()
