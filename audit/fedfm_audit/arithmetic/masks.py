"""Which masks came off a sum: secrets rebuilt from the shares that clients revealed, and the
keystreams that grow from them.

A rebuilt seed opens the commitment in its owner's signed KeyOffer, a rebuilt mask key belongs to
the public key there; so the masks that an auditor takes off are those that the clients put on, or
the replay fails.  Source: protocols/README.md, sections "Masks" and "Shares".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.arithmetic.bodies import RevealedShare, Unmask
from fedfm_audit.errors import ArchiveError
from fedfm_audit.graph import MaskingGraph
from fedfm_audit.messages import Cohort, StepKeys
from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.lattice.portable_sums import WORD_BYTES, carried
from fedfm_crypto.mask import Keystream, Sign
from fedfm_crypto.secret import Secret
from fedfm_crypto.shamir import Share, reconstruct

Mask = tuple[Secret, Sign]
"""Key of a mask, and whether it is added to the sum or subtracted."""


@dataclass(frozen=True, slots=True)
class MaskedStep:
    """What a step's masks follow from.

    ``keys`` are the dealers' mask keys and commitments for this step, ``points`` the Shamir points
    of the roster, ``graph`` the masking graph (``None``: everybody masked with everybody).
    """

    context0: bytes
    context1: bytes
    step: int
    cohort: Cohort
    keys: Mapping[str, StepKeys]
    points: Mapping[str, int]
    threshold: int
    graph: MaskingGraph | None

    def peeling(self, reveals: Mapping[str, Unmask]) -> list[Mask]:
        """What takes the masks off when it is added to the sum of the accepted uploads.

        Raises
        ------
        ArchiveError
            if a client revealed what it must not, or a secret cannot be rebuilt or is not the one
            that its owner offered; names the client.
        """
        seeds = self._collect(reveals, "seed_shares", self.cohort.accepted)
        keys = self._collect(reveals, "key_shares", self.cohort.removed)
        masks: list[Mask] = [
            (self._self_mask(name, self._seed(name, seeds[name])), -1)
            for name in self.cohort.accepted
        ]
        for name in self.cohort.removed:
            own = self._mask_key(name, keys[name])
            masks += [
                (self._pair_mask(name, own, other), 1 if name < other else -1)
                for other in self._neighbours(name)
                if other in seeds
            ]
        return masks

    def _collect(
        self, reveals: Mapping[str, Unmask], which: str, dealers: Collection[str]
    ) -> dict[str, list[tuple[int, bytes]]]:
        found: dict[str, list[tuple[int, bytes]]] = {name: [] for name in dealers}
        for holder in sorted(reveals):
            shares: Sequence[RevealedShare] = getattr(reveals[holder], which)
            if holder not in self.points:
                raise ArchiveError(f"{holder}, who revealed shares, is not on the roster")
            named = [share.dealer for share in shares]
            if named != sorted(set(named)) or not found.keys() >= set(named):
                raise ArchiveError(
                    f"{holder} reveals {which.replace('_', ' ')} of {', '.join(named)}; this "
                    f"cohort has {', '.join(sorted(dealers)) or 'nobody'} for them, each once"
                )
            for share in shares:
                found[share.dealer].append((self.points[holder], share.value))
        return found

    def _rebuild(self, dealer: str, found: list[tuple[int, bytes]], what: str) -> Secret:
        # The first ones, as the coordinator takes them: what else a dealer dealt does not matter.
        try:
            shares = [Share.from_bytes(x, y) for x, y in found[: self.threshold]]
            return reconstruct(shares, self.threshold)
        except CryptoError as error:
            raise ArchiveError(f"the {what} of {dealer} cannot be rebuilt: {error}") from error

    def _seed(self, dealer: str, found: list[tuple[int, bytes]]) -> Secret:
        seed = self._rebuild(dealer, found, "self-mask seed")
        opened = hash_parts(
            Label.SEED_COMMITMENT,
            self.context0,
            dealer.encode(),
            self.step.to_bytes(2, "big"),
            seed.reveal(),
        )
        if opened != self.keys[dealer].seed_commitment:
            raise ArchiveError(f"the rebuilt seed of {dealer} does not open its commitment")
        return seed

    def _mask_key(self, dealer: str, found: list[tuple[int, bytes]]) -> AgreementKey:
        key = AgreementKey.from_secret(self._rebuild(dealer, found, "mask key"))
        if key.public != self.keys[dealer].mask_key:
            raise ArchiveError(f"the rebuilt mask key of {dealer} is not the one it offered")
        return key

    def _self_mask(self, name: str, seed: Secret) -> Secret:
        place = (self.context1, name.encode(), self.step.to_bytes(2, "big"))
        return derive_key(Label.SELF_MASK, seed, *place)

    def _pair_mask(self, name: str, own: AgreementKey, other: str) -> Secret:
        low, high = sorted((name, other))
        return derive_key(
            Label.PAIRWISE_MASK,
            own.exchange(self.keys[other].mask_key),
            self.context1,
            low.encode(),
            high.encode(),
            self.step.to_bytes(2, "big"),
        )

    def _neighbours(self, name: str) -> Collection[str]:
        if self.graph is None:
            return self.cohort.accepted
        if name not in self.graph.ring:
            raise ArchiveError(f"{name} was removed and is not on the masking graph")
        return self.graph.neighbours(name)


@dataclass(slots=True)
class MaskStreams:
    """The sum of signed masks, piece by piece: one keystream each, memory for one piece.

    ``largest`` is the most bytes of keystream that one piece takes.
    """

    masks: Sequence[Mask]
    largest: int
    _streams: list[tuple[Keystream, Sign]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._streams = []
        for key, sign in self.masks:
            shared = self._streams[0][0] if self._streams else None
            self._streams.append((Keystream(key, self.largest, shared), sign))

    def lanes(self, count: int, lane_bits: int) -> NDArray[np.uint32]:
        """The next ``count`` lanes of the sum, each modulo 2^lane_bits."""
        total, width = np.zeros(count, dtype=np.uint32), lane_bits // 8
        for stream, sign in self._streams:
            stream.fill(width * count)
            # A 24-bit lane is read as 4 bytes at a stride of 3; what is too much goes at the end.
            mask = np.ndarray((count,), "<u4", stream.buffer.data, strides=(width,))
            total = total + mask if sign == 1 else total - mask
        return total & np.uint32((1 << lane_bits) - 1)

    def wide(self, count: int) -> NDArray[np.int64]:
        """The next ``count`` words of the sum modulo 2^96: int64 [count, 3], limbs of 32 bits."""
        total = np.zeros((count, WORD_BYTES // 4), dtype=np.int64)
        for stream, sign in self._streams:
            stream.fill(WORD_BYTES * count)
            mask = stream.buffer[: WORD_BYTES * count].view("<u4").reshape(total.shape)
            total += mask if sign == 1 else -mask.astype(np.int64)
        return carried(total)
