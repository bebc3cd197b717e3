"""Fixtures shared by every test: where the optional shared folder lies, and seeded randomness."""

from __future__ import annotations

import gc
import os
from importlib import import_module
from pathlib import Path

import pytest

from tests.remembered_signatures import remember_signatures

# Workers share the cores already; pools of threads in each of them only wait for one another.
# Set before anything imports torch or NumPy; test processes inherit it.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")

REPOSITORY = Path(__file__).resolve().parent.parent
# Test files that run federations of real processes: all forked from one, which takes 14 s to start,
# and never more than one federation at a time.
PROCESSES = (
    "tests/integration/",
    "tests/soak/test_kill_processes",
    "tests/adversarial/test_network_processes",
)
# Those whose tests share what takes seconds to make: recorded rounds, calibrated noise.
COSTLY = (
    "tests/soak/test_hostile_input",
    "tests/secure_fedfm/cli/test_shared_noise",
    "tests/secure_fedfm/test_demo_privacy",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With ``-n``: tests that share something go to one worker, or each would make it.

    What ``--dist loadgroup`` is for; xdist 3.8 marks groups in an attribute that pytest 9 ignores.
    """
    scheduler = import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduler._split_scope = _shared_by
    return scheduler


def _shared_by(nodeid: str) -> str:
    """What the test with this id shares with others; the id itself for nothing."""
    file = nodeid.partition("::")[0]
    if file.startswith(PROCESSES):
        return "processes"
    return file if file.startswith(COSTLY) else nodeid


@pytest.fixture(scope="session", autouse=True)
def _signatures_verified_once() -> None:
    remember_signatures()


def pytest_collection_finish() -> None:
    """What the imports left stays for good; the collector need not walk over it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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
