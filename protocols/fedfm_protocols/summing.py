"""Adding masked uploads, and taking the masks off the sum once a quorum has agreed to.

Source: protocols/README.md, steps 4c, 11 and 12.  Words are uint32 arrays of shape ``[values]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_crypto.lanes import add_lanes, unpack_lanes
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking, shares
from fedfm_protocols.errors import MalformedMessage, RoundAborted
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Cohort, KeyOffer, Unmask, Upload
from fedfm_protocols.neighbourhood import Neighbourhoods


def read_words(upload: Upload, federation: Federation, sender: str) -> Words:
    """The words of an upload, checked for length.

    Raises
    ------
    MalformedMessage
        if there are more or fewer than the charter says.
    """
    expected = federation.charter.quantiser.values
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


def add_upload(total: Words | None, words: Words, lane_bits: int) -> Words:
    """A new array: ``total`` plus ``words`` modulo ``2**lane_bits``."""
    result = words.copy()
    if total is not None:
        add_lanes(result, total, lane_bits)
    return result


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

    def open_sum(self, total: Words, reveals: Mapping[str, Unmask]) -> Words:
        """The plain sum: a copy of ``total`` with every mask taken off.

        Raises
        ------
        RoundAborted
            if a secret cannot be rebuilt; names the dealer, who signed shares that do not fit
            its own public key or commitment.
        """
        opened = total.copy()
        if not self.federation.masked:
            return opened
        collected = self._collect(reveals)
        masking.peel(
            opened,
            context=self.context,
            step=self.step,
            seeds={name: self._seed(name, collected[name]) for name in self.cohort.accepted},
            removed_keys={
                name: self._mask_key(name, collected[name]) for name in self.cohort.removed
            },
            neighbours=self.hood.of,
            public_keys={n: o.steps[self.step].mask_key for n, o in self.offers.items()},
            lane_bits=self.federation.lanes.lane_bits,
        )
        return opened

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
