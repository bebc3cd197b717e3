"""Adding protected uploads, and taking the masks off the sum once a quorum has agreed to.

Source: protocols/README.md, steps 4c, 11 and 12.  Words are uint32 arrays of shape ``[values]``;
with encryption the sum is a ciphertext before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_crypto.lanes import add_lanes, pack_lanes, unpack_lanes
from fedfm_crypto.mask import Sign, add_masks
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking, shares
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import MalformedMessage, RoundAborted
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Cohort, KeyOffer, Unmask, Upload
from fedfm_protocols.neighbourhood import Neighbourhoods

Total = Any
"""A protected sum: words of shape ``[values]``, or what :class:`Encryption` adds ciphertexts in."""


def add_upload(
    federation: Federation,
    encryption: Encryption | None,
    total: Total | None,
    upload: Upload,
    sender: str,
) -> Total:
    """A new total: ``total`` plus a client's protected update.

    Raises
    ------
    MalformedMessage
        if the update is not what the charter's number of values takes, or out of range.
    """
    if encryption is not None and federation.encrypted:
        check_upload(federation, encryption, upload, sender)
        return encryption.add(total, upload.words)
    words = read_words(upload, federation, sender)
    if total is not None:
        add_lanes(words, total, federation.lanes.lane_bits)
    return words


def check_upload(
    federation: Federation, encryption: Encryption | None, upload: Upload, sender: str
) -> None:
    """Refuse an upload that :func:`add_upload` would refuse, without adding it to anything.

    Raises
    ------
    MalformedMessage
        as :func:`add_upload`.
    """
    lane_bits, values = federation.lanes.lane_bits, federation.lane_count
    if encryption is None or not federation.encrypted:
        read_words(upload, federation, sender)
        return
    try:
        encryption.check_upload(upload.words, values, lane_bits)
    except CryptoError as error:
        raise MalformedMessage(f"upload of {sender}: {error}") from error


def read_words(upload: Upload, federation: Federation, sender: str) -> Words:
    """The words of an upload without encryption, checked for length.

    Raises
    ------
    MalformedMessage
        if there are more or fewer than the charter says.
    """
    expected = federation.lane_count
    width = federation.lanes.lane_bits // 8
    if len(upload.words) != expected * width:
        raise MalformedMessage(
            f"upload of {sender} has {len(upload.words)} bytes, expected {expected} values of "
            f"{width} bytes"
        )
    try:
        return unpack_lanes(upload.words, federation.lanes.lane_bits)
    except (CryptoError, CodecError) as error:
        raise MalformedMessage(f"upload of {sender} does not unpack: {error}") from error


@dataclass(frozen=True, slots=True)
class Opening:
    """All that is needed to take the masks off one step's sum."""

    federation: Federation
    context: bytes
    step: int
    cohort: Cohort
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    ledger: shares.ShareLedger

    def check_reveal(self, holder: str, reveal: Unmask) -> tuple[str, ...]:
        """Dealers whose share ``holder`` reveals falsely, twice, or must not reveal at all."""
        wrong = []
        for which, entries, allowed in (
            (shares.SEED, reveal.seed_shares, frozenset(self.cohort.accepted)),
            (shares.KEY, reveal.key_shares, frozenset(self.cohort.removed)),
        ):
            last = ""
            for entry in entries:
                # A share counted twice would stand for one that is missing.
                repeated, last = entry.dealer <= last, entry.dealer
                if (
                    repeated
                    or entry.dealer not in allowed
                    or not self.ledger.matches(holder, self.step, which, entry)
                ):
                    wrong.append(entry.dealer)
        return tuple(wrong)

    def shortage(self, revealing: int, usable: Mapping[str, int]) -> str:
        """What is missing before the sum can be opened, empty if nothing is.

        ``revealing`` clients have given shares; ``usable`` counts these by dealer.
        """
        threshold, quorum = self.hood.threshold, self.federation.thresholds.vote_quorum
        if revealing < quorum:
            return f"{revealing} clients revealed usable shares, {quorum} are needed"
        if not self.federation.masked:
            return ""
        dealers = sorted(self.cohort.accepted + self.cohort.removed)
        short = [dealer for dealer in dealers if usable.get(dealer, 0) < threshold]
        if not short:
            return ""
        return f"fewer than {threshold} clients hold usable shares dealt by {', '.join(short)}"

    def _collect(self, reveals: Mapping[str, Unmask]) -> dict[str, list[tuple[int, bytes]]]:
        """Dealer -> the (x, value) shares revealed of its one secret, by holder's name."""
        collected: dict[str, list[tuple[int, bytes]]] = {}
        for holder in sorted(reveals):
            x = self.federation.share_index[holder]
            for entry in (*reveals[holder].seed_shares, *reveals[holder].key_shares):
                collected.setdefault(entry.dealer, []).append((x, entry.value))
        return collected

    def peel(
        self, encryption: Encryption | None, total: Total, reveals: Mapping[str, Unmask]
    ) -> bytes:
        """``total`` with every mask taken off, as an Aggregate carries it: the plain sum, or the
        ciphertext of it, from which the masks come off without anybody seeing what is left.

        Raises
        ------
        RoundAborted
            if a secret cannot be rebuilt; names the dealer, who signed shares that do not fit
            its own public key or commitment.
        """
        masks = self._masks(reveals) if self.federation.masked else ()
        lane_bits = self.federation.lanes.lane_bits
        if encryption is not None and self.federation.encrypted:
            values = self.federation.lane_count
            return encryption.peel(total, masks, values, lane_bits)
        words = total.copy()
        add_masks(words, masks, lane_bits)
        return pack_lanes(words, lane_bits)

    def _masks(self, reveals: Mapping[str, Unmask]) -> Iterable[tuple[Secret, Sign]]:
        collected = self._collect(reveals)
        return masking.peeling_keys(
            context=self.context,
            step=self.step,
            seeds={name: self._seed(name, collected[name]) for name in self.cohort.accepted},
            removed_keys={
                name: self._mask_key(name, collected[name]) for name in self.cohort.removed
            },
            neighbours=self.hood.of,
            public_keys={n: o.steps[self.step].mask_key for n, o in self.offers.items()},
        )

    def _rebuild(self, dealer: str, found: list[tuple[int, bytes]], what: str) -> Secret:
        try:
            return shares.rebuild(found, self.hood.threshold)
        except CryptoError as error:
            raise RoundAborted(f"the {what} of {dealer} cannot be rebuilt: {error}") from error

    def _seed(self, dealer: str, found: list[tuple[int, bytes]]) -> Secret:
        seed = self._rebuild(dealer, found, "self-mask seed")
        context0 = self.ledger.context0
        expected = self.offers[dealer].steps[self.step].seed_commitment
        if masking.seed_commitment(context0, dealer, self.step, seed) != expected:
            raise RoundAborted(f"{dealer} dealt shares of a seed that it did not commit to")
        return seed

    def _mask_key(self, dealer: str, found: list[tuple[int, bytes]]) -> AgreementKey:
        secret = self._rebuild(dealer, found, "mask key")
        key = AgreementKey.from_secret(secret)
        if key.public != self.offers[dealer].steps[self.step].mask_key:
            raise RoundAborted(f"{dealer} dealt shares of a key that is not the one it offered")
        return key
