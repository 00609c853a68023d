"""Recordings played through a network, and scored: `mtc-replay`, `make demo`.

A recording has streams, one per camera. A stream is replayed into a folder with one record per
image; every figure, comparison and page is computed from the records alone.

- `bags`, `sources`: from the files of a recording to images with labels
- `records`: what became of one image
- `streams`, `live`: one stream, in lock-step or through the real node
- `evaluation`: all streams of a run, here, in several processes or on a cluster
- `results`, `pages`: figures, limits, comparisons; their HTML
- `commands`, `demo`: what is run from a shell
"""
