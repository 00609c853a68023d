"""A network in PyTorch behind the engine protocol, so that one evaluation serves both worlds."""

import torch
from torch import nn

from mtc_perception.core.engine import Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from offline_compress.export import MAX_DETECTIONS, DeployGraph


class TorchEngine:
    """The deployable graph of a network, run eagerly by PyTorch in fp32, one image at a time.

    It runs where the network's weights are. `max_detections` may exceed a bundle's.
    """

    name = "torch"
    precision = "fp32"

    def __init__(
        self, model: nn.Module, height: int, width: int, max_detections: int = MAX_DETECTIONS
    ) -> None:
        self._device = next(model.parameters()).device
        self._graph = DeployGraph(model, max_detections).eval()
        self._image = torch.zeros(
            (1, height, width, 3), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )
        self._outputs: tuple[torch.Tensor, ...] = ()
        self.input = self._image.numpy()
        if self._device.type == "cuda":
            where = torch.cuda.get_device_name(self._device)
        else:
            where = f"CPU, {torch.get_num_threads()} threads"
        self.device = f"PyTorch {torch.__version__}, {where}"

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        """Letterbox `image` into `input`."""
        letterbox.write(image, self.input[0])

    def start(self) -> None:
        """Run the network; on a GPU this returns before it is done."""
        # With TF32 "fp32" would not be true; a training that validates in between goes on with it.
        tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        try:
            with torch.inference_mode():
                self._outputs = self._graph(self._image.to(self._device, non_blocking=True))
        finally:
            torch.backends.cudnn.allow_tf32 = tf32

    def wait(self) -> Outputs:
        """The outputs of the last `start`."""
        return Outputs(*(tensor.cpu().numpy() for tensor in self._outputs))

    def close(self) -> None:
        """Forget the outputs; there is nothing else to release."""
        self._outputs = ()
