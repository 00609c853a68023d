"""Recordings played through a network, and scored: `mtc-replay`, `make demo`.

A recording has streams, one per camera. A stream is replayed into a folder with one record per
image; every figure, comparison and page is computed from the records alone.

- `recordings`: from the files of a recording to images with labels
- `records`: what became of one image
- `options`: what can be asked for, in a shell and in a scenario
- `stream`, `live`: one stream, in lock-step or through the real node
- `run`: all streams of a run, here, in several processes or on a cluster; scenarios and limits
- `results`, `report`: figures and comparisons; their pages
- `cli`, `demo`, `flags`, `terminal`: what is run from a shell, and what it shows
"""
