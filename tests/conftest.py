"""Fixtures shared by every test: where the optional shared folder lies, and seeded randomness."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _shared_folder(name: str) -> Path:
    root = Path(os.environ.get("SECURE_FEDFM_SHARED", REPOSITORY.parent / "shared"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"no {name} folder at {folder}; set SECURE_FEDFM_SHARED to one that has it")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data sets (banking77), or a skip with the reason."""
    return _shared_folder("data")


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The folder with independent test vectors (wycheproof), or a skip with the reason."""
    return _shared_folder("vectors")
