"""Shares of the mask secrets: dealt sealed, held, revealed one of two, and checked.

Each client deals Shamir shares of its mask key and of its self-mask seed to the whole roster,
itself included, sealed so that the coordinator that carries them cannot read them.  Dealers sign
a salted hash of each share, so a share that is false at unmasking is pinned on whoever gave it.
Source: Bonawitz et al. 2017, section 4; protocols/README.md, section "Shares".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.errors import CodecError, CryptoError, ShareError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_crypto.shamir import Share, reconstruct, split
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import (
    RevealedShare,
    SealedShares,
    ShareBundle,
    ShareCommitments,
    ShareContents,
    StepShares,
)

SEED = b"seed"
KEY = b"key"


def share_commitment(
    context: bytes, dealer: str, recipient: str, step: int, which: bytes, salt: bytes, value: bytes
) -> bytes:
    """Salted hash of one share; ``which`` is ``SEED`` or ``KEY``."""
    return hash_parts(
        Label.SHARE_COMMITMENT,
        context,
        dealer.encode(),
        recipient.encode(),
        step.to_bytes(2, "big"),
        which,
        salt,
        value,
    )


def _sealing_key(
    context: bytes, own_key: AgreementKey, peer_public: bytes, dealer: str, recipient: str
) -> Secret:
    return derive_key(
        Label.SHARE_KEY,
        own_key.exchange(peer_public),
        context,
        dealer.encode(),
        recipient.encode(),
    )


def _associated(context: bytes, dealer: str, recipient: str) -> bytes:
    return hash_parts(Label.SHARE_KEY, context, dealer.encode(), recipient.encode())


def deal(
    *,
    context: bytes,
    dealer: str,
    secrets: RoundSecrets,
    share_keys: Mapping[str, bytes],
    share_index: Mapping[str, int],
    threshold: int,
    random: RandomSource,
) -> ShareBundle:
    """Shares of every step's secrets for everyone in ``share_keys`` (name -> public share key)."""
    recipients = sorted(share_keys)
    points = [share_index[name] for name in recipients]
    steps: dict[str, list[StepShares]] = {name: [] for name in recipients}
    for step in secrets.steps:
        seeds = split(step.seed, threshold, points, random)
        keys = split(step.mask_key.secret, threshold, points, random)
        for name, seed, mask_key in zip(recipients, seeds, keys, strict=True):
            steps[name].append(StepShares(seed.y_bytes, random(32), mask_key.y_bytes, random(32)))
    entries = []
    for name in recipients:
        contents = ShareContents(tuple(steps[name]))
        key = _sealing_key(context, secrets.share_key, share_keys[name], dealer, name)
        sealed = seal(key, encode(contents), _associated(context, dealer, name), random)
        entries.append(SealedShares(name, sealed, commit(context, dealer, name, contents)))
    return ShareBundle(tuple(entries))


def commit(
    context: bytes, dealer: str, recipient: str, contents: ShareContents
) -> tuple[ShareCommitments, ...]:
    """The dealer's commitments to all shares of one entry."""
    return tuple(
        ShareCommitments(
            share_commitment(context, dealer, recipient, step, SEED, s.seed_salt, s.seed),
            share_commitment(context, dealer, recipient, step, KEY, s.key_salt, s.key),
        )
        for step, s in enumerate(contents.steps)
    )


def open_shares(
    *,
    context: bytes,
    dealer: str,
    recipient: str,
    sealed: bytes,
    own_key: AgreementKey,
    dealer_public: bytes,
    steps: int,
    commitments: tuple[ShareCommitments, ...],
) -> ShareContents:
    """Open the entry that ``dealer`` sealed for ``recipient``.

    ``commitments`` are what the dealer signed about this entry, as the coordinator passes it on.

    Raises
    ------
    ShareError
        if it does not open, decode, hold one well-formed pair of shares per step, or open the
        dealer's commitments: revealed later, such a share would be taken for the holder's lie.
    """
    key = _sealing_key(context, own_key, dealer_public, dealer, recipient)
    try:
        contents = decode(
            ShareContents, open_sealed(key, sealed, _associated(context, dealer, recipient))
        )
        for step in contents.steps:
            Share.from_bytes(1, step.seed)
            Share.from_bytes(1, step.key)
    except (CryptoError, CodecError) as error:
        raise ShareError(
            f"the shares that {dealer} sealed for {recipient} cannot be used: {error}"
        ) from error
    if len(contents.steps) != steps:
        raise ShareError(
            f"{dealer} sealed shares of {len(contents.steps)} steps for {recipient}, "
            f"expected {steps}"
        )
    if commit(context, dealer, recipient, contents) != commitments:
        raise ShareError(
            f"the shares that {dealer} sealed for {recipient} do not open the commitments that "
            f"came with them: {dealer} or the coordinator is lying"
        )
    return contents


@dataclass(frozen=True, slots=True)
class ShareLedger:
    """What the coordinator knows about the shares of one step: every dealer's signed commitments
    (dealer -> recipient -> per-step commitments)."""

    context0: bytes
    context: bytes
    commitments: Mapping[str, Mapping[str, tuple[ShareCommitments, ...]]]

    def matches(self, holder: str, step: int, which: bytes, revealed: RevealedShare) -> bool:
        """Whether ``holder`` reveals the share that the dealer committed to."""
        by_recipient = self.commitments.get(revealed.dealer, {})
        steps = by_recipient.get(holder, ())
        if step >= len(steps):
            return False
        expected = steps[step].seed if which == SEED else steps[step].key
        return expected == share_commitment(
            self.context,
            revealed.dealer,
            holder,
            step,
            which,
            revealed.salt,
            revealed.value,
        )


def rebuild(shares: Sequence[tuple[int, bytes]], threshold: int) -> Secret:
    """The secret behind ``(x, value)`` shares; uses the first ``threshold`` of them.

    Raises
    ------
    ShareError
        if there are too few, or they are not shares of a 32-byte secret.
    """
    return reconstruct([Share.from_bytes(x, y) for x, y in shares[:threshold]], threshold)
