"""Hostile ciphertexts, keys and shares: each refused by name, before TenSEAL, in bounded memory.

A sample of 500 here; ``make soak`` runs 10,000 on the sum layer and 10,000 on sketches and scores.
"""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest
import tenseal

from fedfm_crypto.errors import CiphertextError
from fedfm_crypto.lattice.wrapping import WRAP, check_wrap
from tests.crypto.lattice.federation import make_federation
from tests.crypto.lattice.hostile import HostileTarget, compressed, hostile_targets

SAMPLE = 500
SOAK = 10_000
TARGETS = hostile_targets()


def refuse(cases: int, targets: list[HostileTarget], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Run this many cases over these targets; return the messages, without their numbers."""

    def never(*arguments: object) -> None:
        raise AssertionError("TenSEAL was called with a hostile object")

    monkeypatch.setattr(tenseal, "bfv_vector_from", never)
    monkeypatch.setattr(tenseal, "ckks_vector_from", never)
    monkeypatch.setattr(tenseal, "context_from", never)
    messages = set()
    for number in range(cases):
        target = targets[number % len(targets)]
        name, data = target.case(number // len(targets))
        try:
            target.read(data)
        except CiphertextError as error:
            messages.add("".join(c for c in str(error) if not c.isdigit()))
        else:
            pytest.fail(f"{name} was accepted")
    return messages


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_undamaged_object_is_accepted(target: HostileTarget) -> None:
    target.read(target.valid)
    target.read(memoryview(bytearray(target.valid)))  # type: ignore[arg-type]


def test_a_sample_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = refuse(SAMPLE, TARGETS, monkeypatch)
    # The refusals tell the damages apart.
    assert len(messages) > 20


@pytest.mark.soak
@pytest.mark.parametrize("part", [TARGETS[:6], TARGETS[6:]], ids=["sums", "sketches"])
def test_ten_thousand_are_refused_by_name(
    part: list[HostileTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refuse(SOAK, part, monkeypatch)


def test_every_header_byte_matters() -> None:
    wrap = TARGETS[0].valid
    for at in range(113):
        damaged = bytearray(wrap)
        damaged[at] ^= 0x40
        with pytest.raises(CiphertextError):
            check_wrap(damaged)


def test_whatever_is_accepted_has_one_form() -> None:
    """Random flips among the residues: refused, or read and written back unchanged."""
    wrap, random, accepted = TARGETS[0].valid, Random(1), 0  # noqa: S311
    for _ in range(100):
        damaged = bytearray(wrap)
        damaged[random.randrange(113, len(wrap))] ^= 1 << random.randrange(8)
        try:
            values = check_wrap(damaged)
        except CiphertextError:
            continue
        accepted += 1
        assert WRAP.write(values) == damaged
    assert 0 < accepted < 100


def test_a_decompression_bomb_costs_no_memory() -> None:
    bomb = compressed(b"", Random(2))  # noqa: S311
    tracemalloc.start()
    for data in (bomb, bytes(50_000_000 // 16)):
        with pytest.raises(CiphertextError):
            check_wrap(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_what_tenseal_itself_writes_is_compressed_and_refused() -> None:
    federation = make_federation()
    total = federation.wrapping.new_sum()
    total.add(TARGETS[0].valid)
    serialised = total._total.serialize()
    start = serialised.index(b"\x5e\xa1")
    with pytest.raises(CiphertextError, match="expected exactly"):
        check_wrap(serialised[start:])
    padded = (serialised[start:] + bytes(WRAP.size))[: WRAP.size]
    with pytest.raises(CiphertextError, match=r"compressed \(zstandard\)"):
        check_wrap(padded)
