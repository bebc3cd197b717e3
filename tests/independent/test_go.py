"""The log by golang.org/x/mod/sumdb (Debian's golang-golang-x-mod-dev): go/main.go says what."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfm_audit.bundle import write_files
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from fedfm_crypto.note import cosign
from tests.audit.synthetic import MOMENT, NAME, Federation, play_federation
from tests.independent.bundles import (
    copy_of,
    documented,
    entry_bundle,
    flip,
    read_leaves,
    signed_head,
)
from tests.independent.conftest import GIVEN, need

LIBRARY = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog")  # where Debian installs it
FLIPS = 60
Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built with the commands of docs/for-auditors.md."""
    need("go", "golang-go golang-golang-x-mod-dev")
    if not LIBRARY.is_dir():
        reason = f"no {LIBRARY}; on Debian: apt-get install golang-golang-x-mod-dev"
        pytest.fail(reason) if GIVEN in os.environ else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("go")
    (folder / "tests").symlink_to(Path(__file__).resolve().parent.parent)
    build, _ = documented("The log, with Go", "sh").strip().splitlines()
    env = {"HOME": str(folder), **os.environ}
    done = subprocess.run(
        ["sh", "-c", build], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "checklog"


@pytest.fixture
def check(program: Path) -> Check:
    def run(bundle: Path, *notes: Path, policy: Path | None = None) -> object:
        arguments = [program, bundle, policy or bundle / "policy", *notes]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    return run  # type: ignore[return-value]


def refused(done: subprocess.CompletedProcess[str], reason: str = "") -> None:
    assert done.returncode == 1, done
    assert done.stderr.startswith("checklog: FAILED: "), done.stderr
    assert reason in done.stderr, done.stderr


def test_the_documented_commands(program: Path, auditor: Path) -> None:
    _, command = documented("The log, with Go", "sh").strip().splitlines()
    (auditor / "checklog").symlink_to(program)
    done = subprocess.run(
        ["sh", "-c", command], cwd=auditor, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    size, root = signed_head(auditor / "bundle")
    assert f"size {size}, root {root.hex()}" in done.stdout
    assert f"{size} leaves included" in done.stdout


def test_earlier_checkpoints_are_found_and_continued(check: Check, bundle: Path) -> None:
    """Each round names a head and each RoundOpen holds a note that the log's key signed."""
    done = check(bundle)
    assert done.returncode == 0, done.stderr
    rounds = len(list(bundle.glob("transcripts/*.json")))
    assert rounds > 0
    assert f"consistent with {2 * rounds} earlier heads, {rounds} of them signed" in done.stdout


def test_flipped_bits(check: Check, bundle: Path, tmp_path: Path) -> None:
    """Each file that the program reads, at places spread over it, a random bit each."""
    chance = random.Random(7)  # noqa: S311 - which bits are tried, nothing secret
    files = [bundle / "checkpoint", *(p for p in bundle.glob("tile/**/*") if p.is_file())]
    for path in files:
        size = path.stat().st_size
        altered = copy_of(bundle, tmp_path / "altered")
        name = path.relative_to(bundle)
        for number in range(FLIPS):
            position, bit = number * size // FLIPS, chance.randrange(8)
            flip(altered / name, position, bit)
            done = check(altered, policy=bundle / "policy")
            refused(done)
            what = "leaf" if "entries" in name.parts else name.as_posix()
            assert what in done.stderr or "malformed" in done.stderr, (name, position, done.stderr)
            flip(altered / name, position, bit)
        assert check(altered).returncode == 0


def test_an_altered_leaf_is_named(check: Check, bundle: Path, tmp_path: Path) -> None:
    leaves = read_leaves(bundle)
    position = 0
    for number, leaf in enumerate(leaves[:20]):
        altered = copy_of(bundle, tmp_path / "altered")
        flip(entry_bundle(altered), position + 2 + len(leaf) // 2)
        refused(check(altered), f"leaf {number} is not the one that was logged")
        position += 2 + len(leaf)


def test_another_policy(check: Check, bundle: Path, tmp_path: Path) -> None:
    """Keys of others, a quorum that is not met, no log at all."""
    policy = tmp_path / "policy"
    other = play_federation(seed=b"another federation").files()["policy"]
    text = (bundle / "policy").read_text("utf-8")
    without = "".join(x for x in text.splitlines(True) if not x.startswith("log "))
    for content in (other.decode(), without, "", text.replace("quorum clients", "quorum nobody")):
        policy.write_text(content, "utf-8")
        refused(check(bundle, policy=policy))


def test_too_few_cosignatures(check: Check, played: Federation, tmp_path: Path) -> None:
    witnesses = played.names[: played.quorum - 1]
    folder = write_files(played.files(witnesses=witnesses), tmp_path / "few")
    refused(check(folder), f"{played.quorum - 1} cosignatures, the policy asks for")
    # The same witness twice is one witness.
    note = played.note(witnesses=witnesses)
    later = cosign(note, f"{NAME}/client-01", played.keys["client-01"], MOMENT + 1)
    (folder / "checkpoint").write_bytes(note + later)
    refused(check(folder), "repeated")


def test_other_histories_of_the_same_log(check: Check, played: Federation, tmp_path: Path) -> None:
    """Notes signed by the real keys, of leaves in another order, and of a longer log."""
    folder = write_files(played.files(), tmp_path / "bundle")
    leaves = played.leaves
    older = tmp_path / "older"
    for size in (1, 7, len(leaves)):
        older.write_bytes(played.note(leaves[:size]))
        assert check(folder, older).returncode == 0
        forked = [b"something else", *leaves[1:size]]
        older.write_bytes(played.note(forked))
        refused(check(folder, older), f"size {size} is of another history")
    older.write_bytes(played.note([*leaves, leaves[0]]))
    refused(check(folder, older), "beyond the bundle's")


@pytest.mark.parametrize("change", ["drop", "swap", "repeat", "sign again"])
def test_rewritten_leaves(check: Check, played: Federation, tmp_path: Path, change: str) -> None:
    """With every tile made anew; the checkpoint is the old one, or the log's without witnesses."""
    leaves = list(played.leaves)
    if change == "drop":
        del leaves[6]
    elif change == "swap":
        leaves[6], leaves[7] = leaves[7], leaves[6]
    elif change == "repeat":
        leaves.insert(6, leaves[6])
    else:
        opened = dsse_read_unverified(leaves[6])
        key = played.keys["client-02"]
        leaves[6] = dsse_sign(opened.payload, opened.payload_type, [(key.public.hex, key)])
    folder = write_files(played.files(leaves=leaves, note=played.note()), tmp_path / "old")
    refused(check(folder))
    folder = write_files(played.files(leaves=leaves, witnesses=()), tmp_path / "new")
    refused(check(folder), "0 cosignatures")


def test_a_log_of_several_tiles(check: Check, tmp_path: Path) -> None:
    """Two levels of tiles and 600 leaves; statements of rounds are among them or not."""
    federation = Federation()
    filler = [b'{"payload":"e30=","number":%d}' % number for number in range(600)]
    leaves = [*federation.leaves, *filler]
    folder = write_files(federation.files(leaves=leaves), tmp_path / "large")
    done = check(folder)
    assert done.returncode == 0, done.stderr
    assert f"{len(leaves)} leaves included" in done.stdout
    flip(folder / "tile/1/000.p/2", 40)
    refused(check(folder), "tile/1/000.p/2 is not what the leaves give")
