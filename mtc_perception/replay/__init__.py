"""Recordings played through a network, and scored: `mtc-replay`, `make demo`.

A recording has streams, one per camera. A stream is replayed into a folder with one record per
image; every figure, comparison and page is computed from the records alone.

- `recordings`: from the files of a recording to images with labels
- `records`: what became of one image
- `stream`, `live`: one stream, in lock-step or through the real node
- `run`: all streams of a run, here, in several processes or on a cluster
- `results`, `report`: figures, limits, comparisons; their HTML
- `commands`: what is run from a shell
"""
