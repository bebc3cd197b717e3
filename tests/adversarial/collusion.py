"""What a coordinator and some clients know together after a round, and what they can open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.aead import open_sealed
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes
from fedfm_crypto.lattice.bulk_keys import KeySum, PublicPolynomials
from fedfm_crypto.lattice.collective import data_ring
from fedfm_crypto.lattice.key_additive import decrypt
from fedfm_crypto.lattice.threshold import KeyShare, ThresholdDecryption
from fedfm_crypto.lattice.wide_words import LIMBS, add_wide_masks, from_wide, wide_size
from fedfm_crypto.lattice.wrapping import check_wrap, decode_slots
from fedfm_crypto.mask import Sign
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking
from fedfm_protocols.client_decrypt import opening_key
from fedfm_protocols.client_states import Shared
from fedfm_protocols.context import bulk_seed
from fedfm_protocols.key_messages import KeyOpening, WrappedKey
from fedfm_protocols.key_ring import EpochKeys
from fedfm_protocols.messages import Aggregate, Upload
from tests.protocols.scripted import RecordingSimulation, body_of

Masks = list[tuple[Secret, Sign]]


@dataclass
class Collusion:
    """A coordinator (with every message it relayed) and the clients ``members``."""

    simulation: RecordingSimulation
    members: tuple[str, ...]

    # ---- what they have

    def received(self, kind: str, sender: str) -> Envelope:
        """The last message of a type that a client sent to the coordinator."""
        found = [
            envelope
            for envelope in self.simulation.coordinator_received
            if (envelope.header.type, envelope.header.sender) == (kind, sender)
        ]
        return found[-1]

    def keys_of(self, member: str) -> EpochKeys:
        assert member in self.members
        keys = self.simulation.clients[member].state.memory.keys.current
        assert keys is not None
        return keys

    def shared_of(self, name: str) -> Shared:
        """A client's last state with all its mask secrets."""
        found = [s for n, s, _ in self.simulation.client_tape if n == name]
        return next(state for state in reversed(found) if isinstance(state, Shared))

    # ---- opening with key shares

    def key_of(self, victim: str, shares: Sequence[str]) -> NDArray[np.int64]:
        """What these members' key shares make of the victim's wrapped key."""
        wrap = body_of(self.received("WrappedKey", victim), WrappedKey).wrap
        ciphertext = check_wrap(wrap)
        index = self.simulation.federation.share_index
        points = [index[name] for name in shares]
        if len(points) == 1:  # one share, taken for the whole key
            share = KeyShare.from_bytes(points[0], self.keys_of(shares[0]).share)
            ring = data_ring()
            product = ring.inverse(ring.multiply(ring.forward(ciphertext[1]), share.values))
            return decode_slots(ring.add(ciphertext[0], product))[:4096]
        decryption = ThresholdDecryption(2, points)
        parts = [
            decryption.gen_share(
                KeyShare.from_bytes(point, self.keys_of(name).share),
                ciphertext,
                SeededRandom(point),
            )
            for name, point in zip(shares, points, strict=True)
        ]
        return decode_slots(decryption.finalise(ciphertext, decryption.aggregate(parts)))[:4096]

    def upload_under(self, victim: str, key: NDArray[np.int64], masks: Masks) -> NDArray[np.int64]:
        """The victim's upload opened with its bulk key, ``masks`` taken off."""
        envelope = self.received("Upload", victim)
        federation = self.simulation.federation
        values, lane_bits = federation.charter.quantiser.values, federation.lanes.lane_bits
        seed = PublicPolynomials(bulk_seed(envelope.header.context, 0))
        limbs = decrypt(body_of(envelope, Upload).words, KeySum(key, 1), seed)
        limbs = limbs[: LIMBS * wide_size(values, lane_bits)].copy()
        add_wide_masks(limbs, ((secret, -1 if sign == 1 else 1) for secret, sign in masks))
        return from_lanes(from_wide(limbs, lane_bits, values), lane_bits)

    # ---- masks

    def masks_of(self, victim: str, peers: Sequence[str]) -> Masks:
        """The victim's self-mask (its seed is opened for the sum) and its masks with ``peers``."""
        state = self.shared_of(victim)
        offers = {name: state.offers[name].steps[0].mask_key for name in peers}
        return masking.mask_keys(
            context=state.session.context,
            client=victim,
            step=0,
            secrets=state.secrets.steps[0],
            peers=offers,
        )

    # ---- the sum

    def aggregate(self) -> Aggregate:
        """What the coordinator sent out last."""
        for _, _, event in reversed(self.simulation.client_tape):
            envelope: Any = getattr(event, "envelope", None)
            if envelope is not None and envelope.header.type == "Aggregate":
                return body_of(envelope, Aggregate)
        raise AssertionError("no aggregate was sent")

    def opened_polynomial(self, member: str) -> NDArray[np.uint64]:
        """The polynomial that the last key sum opened to, from one member's group key."""
        group = self.keys_of(member).group
        total: NDArray[np.uint64] | None = None
        for data in self.aggregate().openings:
            envelope = Envelope.decode(data)
            header = envelope.header
            key = opening_key(group, header.context, header.sender, header.refers_to)
            share = open_sealed(key, body_of(envelope, KeyOpening).sealed, header.refers_to)
            point = self.simulation.federation.share_index[header.sender]
            values = KeyShare.from_bytes(point, share).values
            total = values if total is None else data_ring().add(total, values)
        assert total is not None
        return total
