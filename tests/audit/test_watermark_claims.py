"""Claims, commitments and openings: what is written, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from fedfm_audit.watermark.capacity import (
    DEFAULT_STRENGTH,
    SIZING_STRENGTH,
    WEAKEST_STRENGTH,
    check_capacity,
    choose_size,
    choose_strength,
    relative_change,
)
from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey, Opening
from fedfm_audit.watermark.errors import ClaimError, MarkCapacityError
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import leaf_hash
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from tests.audit.marks import CARRIER, TINY, owner
from tests.audit.test_watermark_statistic import framed

SIDE = owner(1, TINY, size=128, keys=5)


def test_documents_round_trip() -> None:
    opening = SIDE.opening(3)
    assert Claim.decode(SIDE.claim.encode()) == SIDE.claim
    assert CommittedClaim.decode(SIDE.committed.encode()) == SIDE.committed
    assert Opening.decode(opening.encode()) == opening
    assert Opening.decode(opening.encode()).claim.digest() == SIDE.claim.digest()
    opening.check()
    SIDE.key.check(SIDE.committed)


def test_the_commitment_is_that_of_the_text() -> None:
    """audit/README.md, computed without the code under test."""
    secret, digest = SIDE.key.secret.reveal(), framed("mark-claim", SIDE.claim.encode())
    assert digest == SIDE.claim.digest()
    keys = [framed("mark-key", secret, digest, i.to_bytes(4, "big")) for i in range(5)]
    assert [SIDE.key.sub_key(SIDE.claim, i).reveal() for i in range(5)] == keys
    leaves = [framed("commit-mark", digest, key) for key in keys]

    def node(left: bytes, right: bytes) -> bytes:
        import hashlib

        return hashlib.sha256(b"\x01" + left + right).digest()

    root = node(node(node(leaves[0], leaves[1]), node(leaves[2], leaves[3])), leaves[4])
    assert root == SIDE.committed.commitment
    alone = owner(1, TINY, size=128)
    digest = alone.claim.digest()
    first = framed("mark-key", alone.key.secret.reveal(), digest, bytes(4))
    assert framed("commit-mark", digest, first) == alone.committed.commitment
    # A commitment is an RFC 6962 leaf: what it hashes starts with a zero byte.
    data = (len(b"secure-fedfm/v1/commit-mark")).to_bytes(8, "big")[1:]
    data += b"secure-fedfm/v1/commit-mark"
    for part in (digest, first):
        data += len(part).to_bytes(8, "big") + part
    assert leaf_hash(data) == alone.committed.commitment


def test_nothing_secret_is_shown() -> None:
    key = SIDE.opening(0).key.reveal().hex()
    for shown in (repr(SIDE.opening(0)), str(SIDE.key), repr(SIDE.committed)):
        assert key not in shown
        assert SIDE.key.secret.reveal().hex() not in shown


def test_one_sub_key_tells_nothing_of_the_others() -> None:
    encoded = SIDE.opening(2).encode().decode()
    others = [SIDE.opening(i).key.reveal().hex() for i in (0, 1, 3, 4)]
    assert not any(other in encoded for other in others)
    assert SIDE.key.secret.reveal().hex() not in encoded


# ---- refusals


def edited(**changes: object) -> Opening:
    """The opening with fields of its claim changed, and nothing else."""
    opening = SIDE.opening(0)
    claim = dataclasses.replace(opening.claim, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(
        opening, committed=dataclasses.replace(opening.committed, claim=claim)
    )


def test_an_edited_claim_is_refused() -> None:
    for changes in (
        {"size": 129},
        {"strength": 0.7},
        {"federation": "other"},
        {"base_model": "cd" * 32},
        {"keys": 4},
        {"purpose": "fingerprint"},
        {"modules": (dataclasses.replace(SIDE.claim.modules[0], rows=47),)},
    ):
        with pytest.raises(ClaimError, match="edited, or it is somebody else's"):
            edited(**changes).check()


def test_somebody_elses_commitment_is_refused() -> None:
    """A thief that learned a key and its commitment puts its own name to them."""
    thief = IdentityKey.generate(SeededRandom(99))
    opening = SIDE.opening(0)
    renamed = dataclasses.replace(SIDE.claim, identity=thief.public)
    with pytest.raises(ClaimError, match="edited"):
        edited(identity=thief.public).check()
    from fedfm_crypto.labels import Label

    signature = thief.sign(Label.MARK_SIGNATURE, renamed.digest() + opening.committed.commitment)
    committed = CommittedClaim(renamed, opening.committed.commitment, signature)
    committed.check()  # its signature is in order; the key is not one of this commitment
    with pytest.raises(ClaimError, match="not sub-key 0 of this commitment"):
        dataclasses.replace(opening, committed=committed).check()
    with pytest.raises(ClaimError, match="sign with the identity that claims"):
        SIDE.key.commit(SIDE.claim, thief)


def test_a_wrong_key_is_refused() -> None:
    other = owner(2, TINY, size=128, keys=5)
    opening = SIDE.opening(0)
    for key in (other.opening(0).key, SIDE.opening(1).key):
        with pytest.raises(ClaimError, match="not sub-key 0"):
            dataclasses.replace(opening, key=key).check()
    with pytest.raises(ClaimError, match="not sub-key 1"):
        dataclasses.replace(opening, index=1).check()
    with pytest.raises(ClaimError, match="not the key of this claim"):
        other.key.check(SIDE.committed)
    with pytest.raises(ClaimError):
        other.key.open(SIDE.committed, 0)
    with pytest.raises(ClaimError, match="no sub-key 5"):
        SIDE.key.sub_key(SIDE.claim, 5)
    with pytest.raises(ClaimError, match="31 bytes"):
        MarkKey(Secret(bytes(31)))


def changed(path: tuple[Any, ...], value: object) -> bytes:
    document = json.loads(SIDE.opening(3).encode())
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return canonical_encode(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("index",), 5),
        (("index",), True),
        (("key",), "00" * 31),
        (("key",), "AB" * 32),
        (("path",), ["00" * 32] * 13),
        (("path",), [7]),
        (("signature",), "00" * 63),
        (("commitment",), None),
        (("extra",), 1),
        (("claim", "size"), 127),
        (("claim", "size"), 16385),
        (("claim", "strength"), 0),
        (("claim", "keys"), 0),
        (("claim", "algorithm"), "other"),
        (("claim", "identity"), "00" * 32),
        (("claim", "modules"), []),
        (("claim", "modules", 0, "name"), "a..b"),
        (("claim", "modules", 0, "rows"), 0),
        (("claim", "modules", 0, "stored"), "sideways"),
    ],
    ids=str,
)
def test_malformed_openings_are_refused(path: tuple[Any, ...], value: object) -> None:
    with pytest.raises(ClaimError):
        Opening.decode(changed(path, value))


def test_bytes_that_are_no_canonical_claim_are_refused() -> None:
    data = SIDE.committed.encode()
    for wrong in (b"", b"{}", data + b"\n", data[:-1], b" " + data, b"[" * 5000, bytes(5 << 20)):
        with pytest.raises(ClaimError):
            CommittedClaim.decode(wrong)
    document = json.loads(SIDE.claim.encode())
    twice = copy.deepcopy(document)
    twice["modules"] *= 2
    with pytest.raises(ClaimError, match="sorted by name, each once"):
        Claim.from_json(twice)


# ---- capacity


def test_a_mark_that_the_adapter_cannot_carry_is_refused() -> None:
    fits, large = owner(1, CARRIER, size=256).claim, owner(1, CARRIER, size=512).claim
    assert fits.capacity == 16 * 256 * 8
    assert check_capacity(fits, 0.1) == pytest.approx(0.0963, abs=1e-3)
    with pytest.raises(MarkCapacityError, match="choose a size of at most 256"):
        check_capacity(large, 0.1)
    assert check_capacity(large) == pytest.approx(0.136, abs=1e-3)
    two = owner(1, CARRIER, size=256, keys=2).claim
    with pytest.raises(MarkCapacityError, match="choose a size of at most 128"):
        check_capacity(two, 0.1)
    # Of a fingerprint's sub-keys each copy carries one.
    assert check_capacity(owner(1, size=256, keys=40, purpose="fingerprint").claim) < 0.1
    with pytest.raises(MarkCapacityError, match="more modules, a higher rank or fewer"):
        check_capacity(owner(1, TINY, size=128).claim)
    with pytest.raises(MarkCapacityError, match=r"largest change 0\.3"):
        check_capacity(fits, 0.3)


def test_the_size_that_is_chosen_fits() -> None:
    assert choose_size(CARRIER.targets(), 0.6, 1, 0.1) == 256
    assert choose_size(CARRIER.targets(), 0.6, 2, 0.1) == 128
    assert choose_size(CARRIER.targets() * 20, 0.6, 1) == 1024
    for copies, strength in ((6, 0.6), (0, 0.6), (0, None), (1, 0.0), (1, 5.0)):
        with pytest.raises(MarkCapacityError):
            choose_size(CARRIER.targets(), strength, copies)


def test_what_is_left_of_the_change_goes_into_strength() -> None:
    modules, capacity = CARRIER.targets(), 16 * 256 * 8
    for size, limit in ((192, 0.15), (320, 0.15), (1024, 0.25)):
        kappa = choose_strength(modules, size, limit)
        assert 0.1 <= kappa <= DEFAULT_STRENGTH
        assert relative_change(size, capacity, kappa) <= limit
        assert relative_change(size, capacity, kappa + 0.1) > limit
    assert choose_strength(modules * 20, 128, 0.15) == DEFAULT_STRENGTH
    assert choose_strength(modules, 4096, 0.1) == WEAKEST_STRENGTH
    assert choose_size(modules, None, 1) == choose_size(modules, SIZING_STRENGTH, 1) == 320
    assert choose_size(modules[:3], None, 1) == choose_size(modules[:3], WEAKEST_STRENGTH, 1) == 128


def test_the_predicted_change_is_that_of_the_design() -> None:
    assert relative_change(1024, 24 * 768 * 8, 0.6) == pytest.approx(0.091, abs=1e-3)
