"""Evidence altered after the fact: every change is found, and its place named."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from fedfm_audit.report import Report, Status
from fedfm_audit.statements import PAYLOAD_TYPE
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.head import check_head
from fedfm_audit.steps.roots import check_roots
from fedfm_audit.steps.tree import check_tree
from fedfm_audit.tiles import render_tiles
from fedfm_audit.verify import verify_files
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import add_signature, cosign
from fedfm_crypto.random_source import SeededRandom
from tests.audit.synthetic import MOMENT, NAME, Federation, play_federation

Files = dict[str, bytes]

# The step that must fail when a file is altered, by the start of its name.
STEP_OF = {
    "charter.json": 0,
    "policy": 0,
    "checkpoint": 1,
    "tile/": 2,
    "transcripts/": 3,
}
SAMPLES = 150


def step_of(name: str) -> int:
    return next(step for start, step in STEP_OF.items() if name.startswith(start))


def flipped(data: bytes, position: int, bit: int) -> bytes:
    altered = bytearray(data)
    altered[position] ^= 1 << bit
    return bytes(altered)


def failed_steps(report: Report) -> list[int]:
    return [step.number for step in report.steps if step.status is Status.FAILED]


def places(report: Report, step: int) -> list[str]:
    return [failure.place for failure in report.step(step).failures]


def test_flipped_bits_anywhere_fail_and_are_placed(bundle: Files) -> None:
    """The whole verifier, at positions spread over every file, a random bit each."""
    chosen = random.Random(20)  # noqa: S311 - a seeded choice of test positions
    total = sum(len(data) for data in bundle.values())
    tried = 0
    for name, data in bundle.items():
        count = max(12, SAMPLES * len(data) // total)
        for number in range(count):
            position = number * len(data) // count
            altered = flipped(data, position, chosen.randrange(8))
            report = verify_files({**bundle, name: altered}, name="bundle")
            assert not report.ok, f"{name} byte {position}"
            step = step_of(name)
            assert failed_steps(report)[0] == step, report.to_text()
            assert any(name in place for place in places(report, step))
            tried += 1
    assert tried >= SAMPLES


def test_dense_flips_under_the_first_three_steps(bundle: Files) -> None:
    """Steps 0 to 2 by themselves, a random bit each: every byte of checkpoint and tiles, every
    fourth of charter and policy (where each try verifies a charter anew)."""
    chosen = random.Random(21)  # noqa: S311 - a seeded choice of test positions
    roots = check_roots(bundle, None, None, Findings())
    assert roots is not None
    head = check_head(bundle, roots, Findings())
    assert head is not None
    for name, data in bundle.items():
        if name.startswith("transcripts/"):
            continue
        for position in range(0, len(data), 4 if step_of(name) == 0 else 1):
            files = {**bundle, name: flipped(data, position, chosen.randrange(8))}
            findings = Findings()
            match step_of(name):
                case 0:
                    check_roots(files, None, None, findings)
                case 1:
                    check_head(files, roots, findings)
                case _:
                    check_tree(files, head, findings)
            assert any(name in failure.place for failure in findings.failures), position


def test_every_byte_of_a_transcript_is_under_a_leaf(federation: Federation, bundle: Files) -> None:
    """Transcripts are covered by plain SHA-256, so one comparison stands for all their bits."""
    for number, data in federation.transcripts.items():
        digest = hashlib.sha256(data).hexdigest()
        assert data == bundle[f"transcripts/{number:06d}.json"]
        payloads = [dsse_read_unverified(leaf).payload for leaf in federation.leaves]
        assert sum(digest.encode() in payload for payload in payloads) == 1


# ---- leaves dropped, swapped, repeated, with tiles recomputed


def histories(federation: Federation) -> dict[str, list[bytes]]:
    leaves = federation.leaves
    first = len(federation.names) + 2  # leaf index of round 1
    changed = {
        f"dropped {index}": leaves[:index] + leaves[index + 1 :] for index in range(len(leaves))
    }
    changed |= {
        f"repeated {index}": [*leaves[: index + 1], leaves[index], *leaves[index + 1 :]]
        for index in range(len(leaves))
    }
    changed["swapped rounds"] = [
        *leaves[:first],
        leaves[first + 1],
        leaves[first],
        *leaves[first + 2 :],
    ]
    changed["round before the federation"] = [
        *leaves[: first - 1],
        leaves[first],
        leaves[first - 1],
        *leaves[first + 1 :],
    ]
    changed["reversed"] = leaves[::-1]
    changed["conclusion first"] = [leaves[-1], *leaves[:-1]]
    changed["last round cut off"] = leaves[:-2]
    return changed


def test_rewritten_history_under_the_old_checkpoint(federation: Federation) -> None:
    note = federation.note()
    for name, leaves in histories(federation).items():
        report = verify_files(federation.files(leaves=leaves, note=note), name=name)
        assert failed_steps(report)[0] == 2, name


def test_rewritten_history_signed_by_the_log_without_witnesses(federation: Federation) -> None:
    """The log's owner uses its real key; the quorum of witnesses is what stops it."""
    quorum = federation.names[: federation.quorum - 1]
    for name, leaves in histories(federation).items():
        for witnesses in ((), quorum):
            report = verify_files(federation.files(leaves=leaves, witnesses=witnesses), name=name)
            assert failed_steps(report)[0] == 1, name
            assert places(report, 1) == ["checkpoint"]
            assert 2 not in failed_steps(report)


def test_rewritten_history_with_every_witness_in_the_plot(federation: Federation) -> None:
    """Even a history that all witnesses cosign must be one that a federation can have."""
    for name, leaves in histories(federation).items():
        report = verify_files(federation.files(leaves=leaves), name=name)
        if leaves == federation.leaves[:-1]:
            # Without its conclusion it is the honest history of an earlier day, and says so.
            assert any("still running" in warning for warning in report.warnings)
            continue
        assert not report.ok, name
        assert set(failed_steps(report)) <= {3, 4, 5}, name


def test_a_dropped_middle_round_is_named() -> None:
    federation = play_federation()
    first = len(federation.names) + 2
    del federation.leaves[first + 1]
    del federation.transcripts[2]
    report = verify_files(federation.files(), name="b")
    assert f"leaf {first + 1}" in places(report, 4)
    assert "round 3, expected round 2" in report.to_text()


# ---- wrong keys


def strangers() -> IdentityKey:
    return IdentityKey.generate(SeededRandom(b"stranger"))


def test_checkpoints_of_other_keys_fail(federation: Federation, bundle: Files) -> None:
    stranger = strangers()
    forged = federation.note(key=stranger)
    real = federation.note(witnesses=federation.names[:3])
    foreign = add_signature(real, cosign(real, f"{NAME}/client-04", stranger, MOMENT))
    unknown = add_signature(federation.note(), cosign(real, "elsewhere/w", stranger, MOMENT))
    for note in (forged, foreign, unknown, b"", b"\n\n", federation.note().split(b"\n\n")[0]):
        report = verify_files({**bundle, "checkpoint": note}, name="b")
        assert failed_steps(report)[0] == 1


def test_a_leaf_signed_by_a_stranger_or_by_the_wrong_party(federation: Federation) -> None:
    keys = (strangers(), federation.keys["client-01"])
    for index, data in enumerate(federation.leaves):
        for key in keys:
            leaf = dsse_sign(
                dsse_read_unverified(data).payload, PAYLOAD_TYPE, [(key.public.hex, key)]
            )
            if leaf in federation.leaves:
                continue
            leaves = [*federation.leaves[:index], leaf, *federation.leaves[index + 1 :]]
            report = verify_files(federation.files(leaves=leaves), name="b")
            assert f"leaf {index}" in places(report, 3)


def test_a_leaf_that_is_no_statement(federation: Federation) -> None:
    for noise in (b"x", b"{}", b"\xff" * 40, federation.charter):
        leaves = [*federation.leaves[:-1], noise]
        report = verify_files(federation.files(leaves=leaves), name="b")
        assert f"leaf {len(leaves) - 1}" in places(report, 3)


# ---- other federations, other rounds


def test_evidence_of_another_federation_does_not_pass(bundle: Files) -> None:
    other = play_federation(seed=b"another federation").files()
    for name in sorted(other.keys() & bundle.keys()):
        if other[name] != bundle[name]:
            report = verify_files({**bundle, name: other[name]}, name="b")
            assert not report.ok, name
    tiles = {name: data for name, data in other.items() if name.startswith("tile/")}
    rest = {name: data for name, data in bundle.items() if not name.startswith("tile/")}
    assert failed_steps(verify_files({**rest, **tiles}, name="b"))[0] == 2


def test_transcripts_cannot_be_exchanged_within_a_bundle(bundle: Files) -> None:
    one, three = "transcripts/000001.json", "transcripts/000003.json"
    swapped = {**bundle, one: bundle[three], three: bundle[one]}
    report = verify_files(swapped, name="b")
    assert {one, three} <= set(places(report, 3))


# ---- stored tiles


def test_tiles_that_contradict_the_leaves_are_told_from_altered_leaves(
    federation: Federation, bundle: Files
) -> None:
    name = f"tile/0/000.p/{len(federation.leaves)}"
    altered = verify_files({**bundle, name: flipped(bundle[name], 40, 0)}, name="b")
    assert places(altered, 2) == [name]
    entries = f"tile/entries/000.p/{len(federation.leaves)}"
    report = verify_files({**bundle, entries: flipped(bundle[entries], 500, 0)}, name="b")
    assert {f"leaf 0 ({entries})", "checkpoint"} <= set(places(report, 2))


def many(count: int) -> Iterable[bytes]:
    return (b"filler %d" % number for number in range(count))


def test_a_log_of_several_tiles() -> None:
    """Only steps 1 and 2 can hold, and they must: tiles of three levels of fullness."""
    federation = Federation()
    leaves = [*federation.leaves, *many(600)]
    files = federation.files(leaves=leaves)
    report = verify_files(files, name="b")
    assert report.step(2).status is Status.VERIFIED
    assert report.step(3).status is Status.FAILED
    assert len(report.step(3).failures) == 101
    assert {"tile/1/000.p/2", "tile/0/001", "tile/entries/001"} < render_tiles(leaves).keys()
    report = verify_files({**files, "tile/1/000.p/2": bytes(64)}, name="b")
    assert places(report, 2) == ["tile/1/000.p/2"]
