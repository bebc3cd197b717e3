"""SIGKILL at random moments of an append: no acknowledged leaf is lost, and no history forks.

A coordinator's evidence (the real ``Evidence`` over the real log, with real fsync) is written by a
process of its own, which is killed after a delay drawn over what starting and some appends take, so
also between a temporary file, its fsync, its rename, the tiles and the checkpoint. The next process
starts on the same folder, and may be killed while it repairs it. After each death:

* every leaf that was ever acknowledged stands at its index, and nothing else stands in its place;
* every checkpoint that was ever returned, thus may have been shown, is a prefix of the log on disk,
  and the stored checkpoint is no older than any of them;
* the root that starting recomputes is that of the leaves, by another computation.

``make soak`` does :data:`KILLS` and goes on where it stopped (``.soak/kill-appends.jsonl``);
``SOAK_CASES`` sets another number, ``SOAK_SEED`` other moments. ``make test`` does
:data:`SAMPLE`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedfm_audit.tiles import render_tiles
from fedfm_crypto.note import (
    NoteAlgorithm,
    format_vkey,
    open_note,
    parse_checkpoint,
    split_note,
)
from secure_fedfm.storage.site import Site
from tests.soak.appending import Coordinator, run_child
from tests.soak.engine import FOLDER, REPOSITORY, generator, source_digest, wanted_cases

KILLS = 200
SAMPLE = 5
PER_FOLDER = 20
"""Deaths of one coordinator; then another begins with an empty folder."""
LONGEST = 0.35
"""Seconds from the fork: starting takes some hundredths, a round with its cosignatures as many."""
PROGRESS = FOLDER / "kill-appends.jsonl"


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    halves = naive_root(leaves[:split]) + naive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + halves).digest()


@dataclass
class Promises:
    """What a coordinator has ever acknowledged."""

    leaves: dict[int, bytes] = field(default_factory=dict)
    heads: dict[int, bytes] = field(default_factory=dict)
    lives: int = 0

    def take(self, line: str, vkeys: Sequence[str]) -> None:
        said = json.loads(line)
        if "leaf" in said:
            leaf = said["leaf"].encode()
            assert self.leaves.setdefault(said["index"], leaf) == leaf, "one index, two leaves"
        elif "note" in said:
            head = open_note(said["note"].encode(), vkeys).checkpoint
            assert self.heads.setdefault(head.size, head.root) == head.root, "a fork was signed"
        else:
            self.lives += 1

    def check(self, coordinator: Coordinator) -> None:
        """Start as a coordinator does, and hold everything against what it finds."""
        evidence = coordinator.open()
        try:
            leaves, root = evidence.log.leaves, evidence.log.root()
            stored = evidence.log.checkpoint
        finally:
            evidence.close()
        for index, leaf in self.leaves.items():
            assert index < len(leaves), f"leaf {index} was acknowledged and is lost"
            assert leaves[index] == leaf, f"leaf {index} was acknowledged and is another"
        for size, said in self.heads.items():
            assert size <= len(leaves), f"a head of size {size} was shown, {len(leaves)} are here"
            assert naive_root(leaves[:size]) == said, f"the head of size {size} is forked"
        if leaves:
            assert root == naive_root(leaves)
        if self.heads:
            assert stored is not None
            assert parse_checkpoint(split_note(stored)[0]).size >= max(self.heads)
        folder = Site(coordinator.root).log_folder
        tiles = {
            p.relative_to(folder).as_posix() for p in (folder / "tile").rglob("*") if p.is_file()
        }
        assert tiles == set(render_tiles(list(leaves)))


def left_behind(root: Path) -> str:
    """What a death interrupted, as the folder shows it."""
    temporary = sorted(root.rglob("*.writing"))
    if temporary:
        name = temporary[0].relative_to(root).as_posix()
        kinds = ("rounds", "log/tile/entries", "log/tile/", "log/checkpoint")
        return "writing " + next((kind for kind in kinds if name.startswith(kind)), name)
    entries = [int(p.name) for p in root.glob("log/tile/entries/000.p/*")]
    hashes = [int(p.name) for p in root.glob("log/tile/0/000.p/*")]
    size, tiles = max(entries, default=0), max(hashes, default=0)
    if len(entries) > 1 or len(hashes) > 1:
        return "replaced tiles not removed"
    if tiles < size:
        return "leaf without tiles"
    checkpoint = root / "log" / "checkpoint"
    covered = int(checkpoint.read_text().split("\n")[1]) if checkpoint.exists() else 0
    return "leaf not in the checkpoint" if covered < size else "between writes"


def kill_once(coordinator: Coordinator, promises: Promises, rng: random.Random) -> str:
    """One life that ends by SIGKILL; returns what it left behind."""
    child, reading = run_child(coordinator)
    try:
        time.sleep(rng.uniform(0.0, LONGEST))
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself: see its traceback above"
    vkeys = _vkeys(coordinator)
    with os.fdopen(reading, encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):  # the last one may be cut off: not acknowledged then
                promises.take(line, vkeys)
    return left_behind(coordinator.root)


def _vkeys(coordinator: Coordinator) -> list[str]:
    made = coordinator.founded
    witnesses = [
        format_vkey(f"test/{name}", key.public, NoteAlgorithm.COSIGNATURE_V1)
        for name, key in made.keys.clients.items()
    ]
    return [made.charter.log.key, *witnesses]


def deaths(root: Path, seed: str, folder: int, kills: int) -> Iterator[str]:
    """``kills`` deaths on one folder; every second time the next process finds it unrepaired."""
    rng = generator(seed, "kill-appends", folder)
    coordinator, promises = Coordinator.at(root), Promises()
    for number in range(kills):
        yield kill_once(coordinator, promises, rng)
        if number % 2:
            promises.check(coordinator)
    promises.check(coordinator)
    assert promises.lives, "no life came as far as its first append"


def _source() -> str:
    paths = sorted((REPOSITORY / "audit" / "fedfm_audit").glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    return f"{source_digest()} {digest[:16]}"


def _done(seed: str) -> set[int]:
    if not PROGRESS.exists():
        return set()
    entries = [json.loads(line) for line in PROGRESS.read_text("utf-8").splitlines()]
    return {e["folder"] for e in entries if (e["seed"], e["source"]) == (seed, _source())}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.xdist_group("kill-appends")
def test_killed_during_appends(tmp_path: Path) -> None:
    seed, done = os.environ.get("SOAK_SEED", "1"), _done(os.environ.get("SOAK_SEED", "1"))
    for folder in range(-(-wanted_cases(KILLS) // PER_FOLDER)):
        if folder in done:
            continue
        started = time.monotonic()
        found = Counter(deaths(tmp_path / str(folder), seed, folder, PER_FOLDER))
        entry = {
            "folder": folder,
            "seed": seed,
            "source": _source(),
            "deaths": PER_FOLDER,
            "left": dict(found),
            "seconds": round(time.monotonic() - started, 1),
        }
        FOLDER.mkdir(exist_ok=True)
        with PROGRESS.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def test_a_sample_of_deaths_during_appends(tmp_path: Path) -> None:
    assert sum(1 for _ in deaths(tmp_path / "site", "1", 0, SAMPLE)) == SAMPLE


def test_a_restored_older_copy_would_be_noticed(tmp_path: Path) -> None:
    """The check itself: on an older copy of the folder it fails."""
    coordinator, promises = Coordinator.at(tmp_path / "site"), Promises()
    coordinator.open().close()
    shutil.copytree(coordinator.root, tmp_path / "backup")
    rng = generator("1", "kill-appends", -1)
    for _ in range(20):
        if promises.leaves:
            break
        kill_once(coordinator, promises, rng)
    promises.check(coordinator)
    shutil.rmtree(coordinator.root)
    shutil.copytree(tmp_path / "backup", coordinator.root)
    with pytest.raises(AssertionError, match="was acknowledged and is lost"):
        promises.check(coordinator)
