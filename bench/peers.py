"""Speed of published road perception networks, measured earlier on the same machine type.

Not measured again here: their code is not part of this repository (some of it is AGPL). Batch 1, 30
runs each, two threads, ONNX Runtime 1.31.1 and OpenVINO 2026.4.1 in float32, exported from their
own code; random weights except TwinLiteNet's. Repeated runs differed by 5 to 20 %.
"""

from dataclasses import dataclass

CONDITIONS = (
    "measured earlier on the same machine type: batch 1, median of 30 runs, two threads, "
    "ONNX Runtime 1.31.1, OpenVINO 2026.4.1, float32"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """One network at 640x384 (width x height); ranges are several runs."""

    name: str
    tasks: str
    params_m: float
    gflops: float
    onnxruntime_ms: tuple[float, float]
    openvino_ms: tuple[float, float]


PEERS = (
    Peer("TwinLiteNet", "drivable, lane", 0.44, 9.0, (77, 94), (76, 91)),
    Peer("TwinLiteNet+ nano", "drivable, lane", 0.033, 1.0, (22.5, 22.5), (20, 20)),
    Peer("TwinLiteNet+ medium", "drivable, lane", 0.479, 8.9, (86.5, 86.5), (79, 79)),
    Peer("TriLiteNet small", "all three", 0.59, 3.9, (48, 48), (43, 43)),
    Peer("TriLiteNet base", "all three", 2.35, 15.4, (133, 133), (124, 124)),
    Peer("A-YOLOM n", "all three", 3.64, 11.2, (127, 127), (107, 107)),
    Peer("YOLOP", "all three", 7.94, 18.5, (124, 164), (100, 120)),
    Peer("HybridNets b3", "all three", 13.42, 17.0, (235, 235), (155, 155)),
    Peer("YOLOPX", "all three", 32.98, 88.9, (485, 485), (476, 476)),
    Peer("RMT-PPAD", "all three", 34.35, 128.2, (752, 809), (645, 682)),
)
