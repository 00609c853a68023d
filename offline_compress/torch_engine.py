"""A network in PyTorch behind the engine protocol, so that one evaluation serves both worlds."""

import numpy as np
import torch
from torch import nn

from mtc_perception.engine import Outputs
from offline_compress.export import DeployGraph


class TorchEngine:
    """The deployable graph of a network, run by PyTorch in fp32, one image at a time."""

    name = "torch"
    precision = "fp32"

    def __init__(self, model: nn.Module, height: int, width: int) -> None:
        self.device = f"PyTorch {torch.__version__}, CPU"
        self.input = np.zeros((1, height, width, 3), dtype=np.uint8)
        self._image = torch.from_numpy(self.input)
        self._graph = DeployGraph(model).eval()
        self._outputs: tuple[torch.Tensor, ...] = ()

    def start(self) -> None:
        """Run the network; PyTorch on a CPU only returns when it is done."""
        with torch.inference_mode():
            self._outputs = self._graph(self._image)

    def wait(self) -> Outputs:
        """The outputs of the last `start`."""
        return Outputs(*(tensor.numpy() for tensor in self._outputs))

    def close(self) -> None:
        """Forget the outputs; there is nothing else to release."""
        self._outputs = ()
