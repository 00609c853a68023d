"""Inference runtimes, one module each, behind the protocol of `mtc_perception.core.engine`."""
