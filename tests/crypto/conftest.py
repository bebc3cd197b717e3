"""Readers of independent test vectors, seeded randomness, and hypothesis settings."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fedfm_crypto.random_source import SeededRandom

# derandomize: a red build must be reproducible from its log alone; `make soak` explores.
settings.register_profile("unit", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("unit")

Wycheproof = Callable[[str], list[dict[str, Any]]]
NistVectors = Callable[[str], list[dict[str, str]]]


@pytest.fixture
def random() -> SeededRandom:
    """A reproducible random source."""
    return SeededRandom(2026)


@pytest.fixture(scope="session")
def wycheproof(shared_vectors: Path) -> Wycheproof:
    """Read one Wycheproof file: its test cases, each with its group's fields under "group"."""

    def read(name: str) -> list[dict[str, Any]]:
        document = json.loads((shared_vectors / "wycheproof" / f"{name}_test.json").read_text())
        cases = [
            {**case, "group": group} for group in document["testGroups"] for case in group["tests"]
        ]
        assert len(cases) == document["numberOfTests"]
        return cases

    return read


@pytest.fixture(scope="session")
def vector_file() -> Callable[[str], str]:
    """Read one file of the ``cryptography_vectors`` package."""

    def read(path: str) -> str:
        return importlib.resources.files("cryptography_vectors").joinpath(path).read_text()

    return read


@pytest.fixture(scope="session")
def nist_vectors(vector_file: Callable[[str], str]) -> NistVectors:
    """Read a file of NAME = VALUE blocks: one dictionary a block that starts with COUNT."""

    def blocks(text: str) -> Iterator[dict[str, str]]:
        block: dict[str, str] = {}
        for line in text.splitlines():
            name, separator, value = line.partition("=")
            if not separator:
                continue
            if name.strip() == "COUNT" and block:
                yield block
                block = {}
            block[name.strip()] = value.strip()
        yield block

    def read(path: str) -> list[dict[str, str]]:
        return list(blocks(vector_file(path)))

    return read
