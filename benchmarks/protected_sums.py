"""Our suites as one sum each, driven on the primitives: what an update goes through, in order.

Left out, since ``secure_sum`` measures them with the real state machines: key agreements, shares
of mask secrets, signatures, votes, hashes.  So bytes here are ciphertext, wrapped key and
decryption shares, not the signed envelopes around them (some kilobytes).  The collective key is
made beforehand; an epoch uses it for many sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.federation import CLIP, SCALE
from benchmarks.key_epoch import make_key_epoch
from benchmarks.measure import ProtectedSum, Stages, example_update, median
from fedfm_crypto.lanes import add_lanes, pack_lanes, unpack_lanes
from fedfm_crypto.lattice.bulk_format import DEGREE, POLYNOMIAL_BYTES, PRIMES
from fedfm_crypto.lattice.bulk_keys import BulkKey, KeySum, PublicPolynomials
from fedfm_crypto.lattice.key_additive import RunningSum, decrypt, encrypt, polynomials_for
from fedfm_crypto.lattice.threshold import ThresholdDecryption
from fedfm_crypto.lattice.wide_words import (
    LIMBS,
    Limbs,
    add_wide_masks,
    from_wide,
    to_wide,
    wide_size,
)
from fedfm_crypto.lattice.wrapping import KeyWrapping, check_wrap, open_key_sum
from fedfm_crypto.mask import Sign, add_masks
from fedfm_crypto.quantise import Quantiser
from fedfm_crypto.random_source import system_random
from fedfm_crypto.secret import Secret

Suite = Literal["layered", "sealed"]

KEY_THRESHOLD = 2
"""Holders that open a key sum when one client may collude: c_max + 1."""

# Polynomials opened at a time, as the protocol does.
_BATCH = 8


class RoundingKey:
    """A random source that keeps what it handed out last: the key that rounds an update."""

    drawn = b""

    def __call__(self, count: int) -> bytes:
        """Draw from the system and remember."""
        self.drawn = system_random(count)
        return self.drawn


class MaskKeys:
    """Keys of self masks and pairwise masks, made up; in a round they come from key agreement."""

    def __init__(self, clients: int) -> None:
        self._seed = system_random(32)
        self._clients = clients

    def of(self, client: int) -> list[tuple[Secret, Sign]]:
        """All masks of a client on the complete graph: its own, and one for each other client."""
        masks: list[tuple[Secret, Sign]] = [(self._key(client, client), 1)]
        for other in range(self._clients):
            if other != client:
                key = self._key(min(client, other), max(client, other))
                masks.append((key, 1 if client < other else -1))
        return masks

    def remaining(self, sign: Sign) -> list[tuple[Secret, Sign]]:
        """What is left in the sum of all clients: the self masks."""
        return [(self._key(client, client), sign) for client in range(self._clients)]

    def _key(self, one: int, other: int) -> Secret:
        return Secret(hashlib.sha256(self._seed + f"{one} {other}".encode()).digest())


def lattice_sum(suite: Suite, lane_bits: int, values: int, clients: int) -> ProtectedSum:
    """One sum under key-additive encryption; ``layered`` has masks inside.

    The opening client is one of the key holders: it adds all wrapped keys itself, gives its share,
    combines the shares and decrypts.  ``bytes_down`` leaves out the wrapped keys that only
    holders fetch.
    """
    parties = _Parties(suite, lane_bits, values, clients)
    total, wraps, rounding = RunningSum(parties.polynomials), [], []
    spent, adds, server = [], [], Stages()
    for number in range(clients):
        client, draw = Stages(), RoundingKey()
        bulk, wrap = parties.protect(number, client, draw)
        with server.running("add") as clock:
            total.add(bulk)
        with server.running("wraps"):
            check_wrap(wrap)
        adds.append(clock.seconds)
        wraps.append(wrap)
        spent.append(client)
        rounding.append(draw.drawn)
    if suite == "layered":
        with server.running("unmask"):
            total.subtract_words(parties.remaining_masks())
    with server.running("serialise"):
        summed = b"".join(total.chunks())
    opening = Stages()
    key_sum, share_bytes = parties.open_keys(wraps, opening)
    with opening.running("decrypt"):
        floats = parties.open_bulk(summed, key_sum)
    return ProtectedSum(
        clients=spent,
        server=server,
        opening=opening,
        adds=adds,
        bytes_up=len(bulk) + len(wrap),
        bytes_down=len(summed) + share_bytes,
        running_sum_bytes=8 * parties.polynomials * len(PRIMES) * DEGREE,
        opened=floats,
        rounding=rounding,
    )


class _Parties:
    """What the clients of one key epoch do in one sum."""

    def __init__(self, suite: Suite, lane_bits: int, values: int, clients: int) -> None:
        self.layered, self.lane_bits, self.values, self.clients = (
            suite == "layered", lane_bits, values, clients,
        )  # fmt: skip
        self.quantiser = Quantiser(CLIP, SCALE, lane_bits)
        self.quantiser.check_capacity(clients)
        self.epoch = make_key_epoch(clients, KEY_THRESHOLD, range(1, clients + 1), system_random)
        self.wrapping = KeyWrapping(self.epoch.public_key)
        self.public = PublicPolynomials(system_random(32))
        self.masks = MaskKeys(clients)
        self.polynomials = polynomials_for(wide_size(values, lane_bits))

    def protect(self, number: int, client: Stages, draw: RoundingKey) -> tuple[bytes, bytes]:
        """A client's update as ciphertext and wrapped key."""
        update, masks = example_update(number, self.values), self.masks.of(number)
        with client.running("quantise"):
            limbs = to_wide(self.quantiser.quantise(update, draw), self.lane_bits)
        if self.layered:
            with client.running("mask"):
                add_wide_masks(limbs, masks)
        with client.running("encrypt"):
            key = BulkKey.generate(system_random)
            chunks = list(encrypt(limbs, key, self.public, system_random))
        with client.running("wrap"):
            wrap = self.wrapping.wrap(key)
        with client.running("serialise"):
            bulk = b"".join(chunks)
        return bulk, wrap

    def remaining_masks(self) -> Limbs:
        """The sum of the masks that do not cancel."""
        limbs = np.zeros(LIMBS * wide_size(self.values, self.lane_bits), np.uint32)
        add_wide_masks(limbs, self.masks.remaining(1))
        return limbs

    def open_keys(self, wraps: Sequence[bytes], opening: Stages) -> tuple[KeySum, int]:
        """The key sum, and the bytes of the shares that opened it; stage ``share`` is one
        holder's."""
        active = range(1, KEY_THRESHOLD + 1)
        decryption = ThresholdDecryption(KEY_THRESHOLD, active)
        shares, holders = [], []
        for x in active:
            holder = Stages()
            with holder.running("share"):
                total = self.wrapping.new_sum()
                for wrap in wraps:
                    total.add(wrap)
                ciphertext = total.ciphertext()
                shares.append(decryption.gen_share(self.epoch.shares[x], ciphertext, system_random))
            holders.append(holder.total)
        opening.seconds["share"] = median(holders)
        with opening.running("key_sum"):
            opened = decryption.finalise(ciphertext, decryption.aggregate(shares))
            key_sum = open_key_sum(opened, self.clients)
        return key_sum, sum(len(share.to_bytes()) for share in shares)

    def open_bulk(self, summed: bytes, key_sum: KeySum) -> NDArray[np.float64]:
        """The sum as floats."""
        limbs = np.empty(LIMBS * wide_size(self.values, self.lane_bits), np.uint32)
        view, done = memoryview(summed), 0
        for first in range(0, self.polynomials, _BATCH):
            chunk = view[first * POLYNOMIAL_BYTES : (first + _BATCH) * POLYNOMIAL_BYTES]
            part = decrypt(chunk, key_sum, self.public, first)[: limbs.size - done]
            limbs[done : done + part.size] = part
            done += part.size
        return self.quantiser.dequantise(from_wide(limbs, self.lane_bits, self.values))


def masked_sum(values: int, clients: int) -> ProtectedSum:
    """One sum under masks alone, 32-bit lanes."""
    quantiser = Quantiser(CLIP, SCALE, 32)
    quantiser.check_capacity(clients)
    masks = MaskKeys(clients)
    total, rounding = np.zeros(values, np.uint32), []
    spent, adds, server = [], [], Stages()
    for number in range(clients):
        update, draw, mine = example_update(number, values), RoundingKey(), masks.of(number)
        client = Stages()
        with client.running("quantise"):
            words = quantiser.quantise(update, draw)
        with client.running("mask"):
            add_masks(words, mine)
        with client.running("serialise"):
            packed = pack_lanes(words, 32)
        with server.running("add") as clock:
            add_lanes(total, unpack_lanes(packed, 32), 32)
        adds.append(clock.seconds)
        spent.append(client)
        rounding.append(draw.drawn)
    with server.running("unmask"):
        add_masks(total, masks.remaining(-1))
    with server.running("serialise"):
        summed = pack_lanes(total, 32)
    opening = Stages()
    with opening.running("decrypt"):
        floats = quantiser.dequantise(unpack_lanes(summed, 32))
    return ProtectedSum(
        clients=spent,
        server=server,
        opening=opening,
        adds=adds,
        bytes_up=len(packed),
        bytes_down=len(summed),
        running_sum_bytes=total.nbytes,
        opened=floats,
        rounding=rounding,
    )


def plain_sum(values: int, clients: int) -> ProtectedSum:
    """One sum of float32 values that nothing protects."""
    total = np.zeros(values, np.float32)
    spent, adds, server = [], [], Stages()
    for number in range(clients):
        update, client = example_update(number, values), Stages()
        with client.running("serialise"):
            sent = update.astype("<f4", copy=False).tobytes()
        with server.running("add") as clock:
            np.add(total, np.frombuffer(sent, "<f4"), out=total)
        adds.append(clock.seconds)
        spent.append(client)
    with server.running("serialise"):
        summed = total.tobytes()
    opening = Stages()
    with opening.running("decrypt"):
        floats = np.frombuffer(summed, "<f4").copy()
    return ProtectedSum(
        clients=spent,
        server=server,
        opening=opening,
        adds=adds,
        bytes_up=len(sent),
        bytes_down=len(summed),
        running_sum_bytes=total.nbytes,
        opened=floats,
    )
