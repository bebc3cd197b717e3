"""Step 9 finds who added up wrongly, and what was signed against the rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfm_audit.arithmetic import bodies
from fedfm_audit.arithmetic.masks import MaskedStep
from fedfm_audit.errors import ArchiveError
from fedfm_audit.messages import Cohort
from fedfm_audit.report import Status
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import SignedHeader
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_crypto.lanes import pack_lanes, unpack_lanes
from fedfm_crypto.lattice.bulk_format import PRIMES, read_polynomials, write_polynomials
from fedfm_protocols import summing
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.messages import Aggregate, Unmask
from tests.audit.archives import Archived, archived
from tests.audit.lies import reasons
from tests.audit.simulated import Losses, Messages
from tests.protocols.federations import Keys

NOBODY: Losses = {}


# ---------------------------------------------------------------- coordinators that add up wrongly


def leave_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The coordinator takes an upload and does not add it."""
    original = summing.add_upload

    def add(federation: Any, encryption: Any, total: Any, upload: Any, sender: str) -> Any:
        if sender == name and total is not None:
            return total
        return original(federation, encryption, total, upload, sender)

    monkeypatch.setattr(summing, "add_upload", add)


def count_twice(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The coordinator adds an upload twice."""
    original = summing.add_upload

    def add(federation: Any, encryption: Any, total: Any, upload: Any, sender: str) -> Any:
        total = original(federation, encryption, total, upload, sender)
        if sender == name:
            total = original(federation, encryption, total, upload, sender)
        return total

    monkeypatch.setattr(summing, "add_upload", add)


@pytest.mark.parametrize("suite", ["masked", "clear"])
def test_an_upload_left_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    leave_out(monkeypatch, "client-03")
    run = archived(tmp_path / "archive", suite, 1)
    assert run.evidence.outcomes == ["completed"]
    report = run.verify()
    assert [step.number for step in report.steps if step.status is Status.FAILED] == [9]
    assert "as if the upload of client-03 were left out" in reasons(report, 9)
    assert "(transcripts/000001.json), step 0, Aggregate: " in reasons(report, 9)


def test_an_upload_counted_twice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_twice(monkeypatch, "client-04")
    report = archived(tmp_path / "archive", "clear", 1).verify()
    assert "as if the upload of client-04 were counted twice" in reasons(report, 9)


def test_one_lane_more_in_the_sum_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = summing.Opening.peel

    def peel(self: summing.Opening, *rest: Any) -> bytes:
        words = unpack_lanes(original(self, *rest), self.federation.lanes.lane_bits)
        words[17] += 1
        return pack_lanes(words, self.federation.lanes.lane_bits)

    monkeypatch.setattr(summing.Opening, "peel", peel)
    report = archived(tmp_path / "archive", "masked", 1).verify()
    assert "first at number 17 of piece 0, in 1 of 50 numbers there" in reasons(report, 9)


def test_a_known_vector_added_to_a_ciphertext_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no client can notice: the sum of the ciphertexts, and one."""
    original = LatticeEncryption.peel

    def peel(self: LatticeEncryption, *rest: Any) -> bytes:
        values = read_polynomials(original(self, *rest))
        values[0, :, 5] = (values[0, :, 5] + np.uint64(1)) % np.array(PRIMES, dtype=np.uint64)
        return write_polynomials(values)

    monkeypatch.setattr(LatticeEncryption, "peel", peel)
    run = archived(tmp_path / "archive", "layered", 1)
    assert run.evidence.outcomes == ["keys completed", "completed"]
    report = run.verify()
    assert [step.number for step in report.steps if step.status is Status.FAILED] == [9]
    assert "first at number 5 of piece 0, in 2 of 8192 numbers there" in reasons(report, 9)


# ---------------------------------------------------------------- lies that are signed


Rewrite = Callable[[bytes], bytes]


def resigned(
    root: Path, kind: str, sender: str, rewrite: Rewrite, suite: str, losses: Losses = NOBODY
) -> Archived:
    """A sum in which ``sender`` signed another body of one message than honest rules give; the
    archive holds that body."""

    def lie(keys: Keys, messages: Messages) -> Messages:
        key = keys.clients.get(sender, keys.coordinator)
        return [
            (resign(key, signed, rewritten()), body)
            if (signed.header.type, signed.header.sender) == (kind, sender)
            else (signed, body)
            for signed, body in messages
        ]

    def rewritten() -> bytes:
        # Of the running round; a body that no archive holds is whatever the lie makes it.
        for path in (root / "open").rglob(f"{kind}/{sender}"):
            path.write_bytes(rewrite(path.read_bytes()))
            return path.read_bytes()
        return rewrite(b"")

    return archived(root, suite, 1, losses, change=lie)


def resign(key: IdentityKey, signed: SignedHeader, body: bytes) -> SignedHeader:
    header = replace(signed.header, body_hash=hashlib.sha256(body).digest())
    return SignedHeader(header, key.sign(Label.ENVELOPE, encode(header)))


def edited(layout: type[Any], edit: Callable[[Any], Any]) -> Rewrite:
    return lambda data: encode(edit(decode(layout, data)))


def another_share(body: Unmask) -> Unmask:
    first, *others = body.seed_shares
    return replace(body, seed_shares=(replace(first, value=bytes(33)), *others))


def share_of_nobody(body: Unmask) -> Unmask:
    return replace(body, key_shares=body.seed_shares[:1])


SIGNED: dict[str, tuple[str, str, str, Rewrite, str]] = {
    "a share that rebuilds another seed": (
        *("masked", "Unmask", "client-02", edited(Unmask, another_share)),
        "Unmask: the rebuilt seed of client-01 does not open its commitment",
    ),
    "a mask key of somebody accepted": (
        *("masked", "Unmask", "client-02", edited(Unmask, share_of_nobody)),
        "Unmask: client-02 reveals key shares of client-01; this cohort has nobody",
    ),
    "too few updates counted": (
        *("clear", "Aggregate", "coordinator"),
        edited(Aggregate, lambda body: replace(body, accepted=4)),
        "Aggregate: counts 4 updates, 5 were accepted",
    ),
    "openings of a sum in clear": (
        *("clear", "Aggregate", "coordinator"),
        edited(Aggregate, lambda body: replace(body, openings=(b"opening",))),
        "Aggregate of coordinator: has 255 bytes, this charter's updates take 240 to 244",
    ),
    "an opening of nobody": (
        *("layered", "Aggregate", "coordinator"),
        edited(Aggregate, lambda body: replace(body, openings=(b"one", b"two"))),
        "Aggregate: holds an opening that is no KeyOpening of this step's transcript",
    ),
    "another sum": (
        *("clear", "Aggregate", "coordinator"),
        edited(Aggregate, lambda body: replace(body, words=bytes(len(body.words)))),
        "Aggregate: it differs from the sum of 5 uploads",
    ),
    "an opening left out": (
        *("layered", "Aggregate", "coordinator"),
        edited(Aggregate, lambda body: replace(body, openings=body.openings[:1])),
        "Aggregate: holds openings of client-01, expected 2 holders'",
    ),
    "another key sum": (
        *("layered", "KeyRequest", "coordinator", lambda data: b"other wraps"),
        "key sum: KeyRequest is not made of exactly the accepted clients' wrapped keys: "
        "client-01, client-02 opened another key sum",
    ),
    "an upload of another length": (
        *("masked", "Upload", "client-02", lambda data: data[:-4]),
        "Upload of client-02: has 200 bytes, this charter's updates take 204",
    ),
    "a residue beyond its prime": (
        *("layered", "Upload", "client-02", lambda data: data[:-8] + bytes([255] * 8)),
        "Aggregate: client-02: bulk ciphertext: residue 4095 of polynomial 0 is not below",
    ),
    "a wrapped key that hides nothing": (
        *("layered", "WrappedKey", "client-02"),
        lambda data: data[: len(data) // 2 + 53] + bytes(len(data) - len(data) // 2 - 53),
        "key sum: WrappedKey of client-02: the wrapped key's second polynomial is zero",
    ),
}


@pytest.mark.parametrize("name", SIGNED)
def test_what_somebody_signed_against_the_rules_is_found(tmp_path: Path, name: str) -> None:
    suite, kind, sender, rewrite, reason = SIGNED[name]
    report = resigned(tmp_path, kind, sender, rewrite, suite).verify()
    assert reason in reasons(report, 9), report.to_text()


def test_a_share_that_rebuilds_another_mask_key_is_found(tmp_path: Path) -> None:
    def another(body: Unmask) -> Unmask:
        (share,) = body.key_shares
        return replace(body, key_shares=(replace(share, value=bytes(33)),))

    losses = {1: {"Upload": ["client-05"]}}
    run = resigned(tmp_path, "Unmask", "client-02", edited(Unmask, another), "masked", losses)
    assert "Unmask: the rebuilt mask key of client-05 is not the one it offered" in reasons(
        run.verify(), 9
    )


def test_shares_of_somebody_who_is_not_on_the_roster_are_refused() -> None:
    cohort = Cohort(bytes(32), ("client-01",), ())
    step = MaskedStep(bytes(32), bytes(32), 0, cohort, {}, {"client-01": 1}, 2, None)
    with pytest.raises(ArchiveError, match="client-09, who revealed shares, is not on the roster"):
        step.peeling({"client-09": bodies.Unmask((), ())})
