from pathlib import Path

import pytest
from toy_bundle import write_toy_bundle


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the toy bundle (see toy_bundle.py): input 160 x 96, answers known by hand."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy.mtc")
