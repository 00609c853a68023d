"""Rows of a compression as `mtc-compress run` writes them, made up."""

from typing import Any


def row(name: str, seed: int = 0, gain: float = 0.0, **settings: Any) -> dict[str, Any]:
    """A result like those of `mtc-compress run`; the student is `gain` points better than 0.9."""

    def network(score: float, params: int, ms: float) -> dict[str, Any]:
        return {
            "name": "net",
            "sha256": f"{params}",
            "detection": {
                "map50": score,
                "map50_95": score / 2,
                "best_f1": score,
                "recall_at_best_f1": score,
                "precision_at_best_f1": score,
                "recall": score,
            },
            "drivable": {"miou": score, "iou": score},
            "lane": {"iou": score, "accuracy": score},
            "params": params,
            "gmacs": params / 1e6,
            "latency_ms": ms,
            "latency_ms_by_engine": {"openvino": ms, "onnxruntime": 2 * ms},
            "latency_p95_ms_by_engine": {"openvino": ms, "onnxruntime": 2 * ms},
        }

    return {
        "schema": 4,
        "name": name,
        "recipe": "net",
        "seed": seed,
        "settings": {
            "prune": {"criterion": "tci_max", "conflict": 0.3, "engine": "openvino"} | settings
        },
        "data": {"name": "roads", "split": "val", "limit": 0, "images": 3},
        "teacher": network(0.9, 4_000_000, 20.0),
        "student": network(0.9 + gain / 100, 1_000_000, 8.0 + seed),
        "pruned": {"detection": 0.5, "drivable": 0.6, "lane": 0.7},
        "latency_ratio": {"openvino": 0.4, "onnxruntime": 0.45},
        "latency_conditions": {"batch": 1, "threads": 2},
        "variants": {},
        "seconds": {"prune": 1800.0, "recover": 1800.0},
        "machine": {"cpu": "C", "cores": 2, "memory_gib": 8.0, "system": "Linux"},
        "versions": {"python": "3.11"},
        "commit": "0123456789abcdef",
        "taken_back": "",
        "budget": {"parameters": {"limit": 0.5, "achieved": 0.25, "kept": True}},
        "command": f"mtc-compress run --recipe r.yaml --set compress.seed={seed} --out runs/{name}",
        "time": "2026-01-01T00:00:00+00:00",
    }


ROWS = [
    row("ours-s0", 0, -0.5),
    row("l2-s0", 0, -2.0, criterion="l2"),
    row("ours-s1", 1, -0.9),
    row("ours-s2", 2, -0.1),
]
