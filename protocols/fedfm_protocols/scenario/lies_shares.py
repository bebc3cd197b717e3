"""Malicious clients, steps 3 and 11: shares that were dealt or are revealed falsely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedfm_crypto.secret import Secret
from fedfm_protocols import shares
from fedfm_protocols.client_states import Shared, Voted
from fedfm_protocols.masking import RoundSecrets, StepSecrets
from fedfm_protocols.messages import (
    RevealedShare,
    SealedShares,
    ShareBundle,
    ShareCommitments,
    Unmask,
)
from fedfm_protocols.scenario.actors import OUTSIDER
from fedfm_protocols.scenario.lies import Moment, Signed, lie

BY = ("by",)
FALSE = ShareCommitments(bytes(32), bytes(32))

# ---------------------------------------------------------------- step 3


def _deal(moment: Moment, change: Callable[[RoundSecrets, StepSecrets], StepSecrets]) -> object:
    """Properly sealed shares; of one step, other secrets than were offered."""
    state = moment.stage.clients[moment.speaker.name].state
    if not isinstance(state, Shared):
        return None
    own = state.secrets
    false = change(own, own.steps[moment.step])
    steps = (*own.steps[: moment.step], false, *own.steps[moment.step + 1 :])
    return shares.deal(
        context=state.session.context,
        dealer=moment.speaker.name,
        secrets=replace(own, steps=steps),
        share_keys={name: offer.share_key for name, offer in state.offers.items()},
        share_index=moment.stage.federation.share_index,
        threshold=state.hood.threshold,
        random=moment.stage.coordinator.random,
    )


@lie("deal-other-seed", "ShareBundle", needs=BY, deferred=True)
def _deal_other_seed(moment: Moment, bundle: ShareBundle) -> object:
    """Shares of another self-mask seed than was committed to are dealt."""
    return _deal(moment, lambda _, step: replace(step, seed=Secret(b"s" * 32)))


@lie("deal-other-key", "ShareBundle", needs=BY, deferred=True)
def _deal_other_key(moment: Moment, bundle: ShareBundle) -> object:
    """Shares of another mask key than was offered are dealt."""
    return _deal(moment, lambda own, step: replace(step, mask_key=own.share_key))


def _spoil(
    moment: Moment, bundle: ShareBundle, change: Callable[[SealedShares], SealedShares]
) -> ShareBundle:
    return ShareBundle(
        tuple(change(e) if e.recipient in moment.clients else e for e in bundle.shares)
    )


@lie("spoil-shares", "ShareBundle", needs=("by", "clients"))
def _spoil_shares(moment: Moment, bundle: ShareBundle) -> ShareBundle:
    """What is sealed for `clients` does not open."""
    return _spoil(
        moment, bundle, lambda e: replace(e, sealed=e.sealed[:-1] + bytes([e.sealed[-1] ^ 1]))
    )


@lie("spoil-commitments", "ShareBundle", needs=("by", "clients"))
def _spoil_commitments(moment: Moment, bundle: ShareBundle) -> ShareBundle:
    """What is signed about the shares of `clients` does not fit them, so that they would be
    blamed for what they reveal."""
    return _spoil(
        moment,
        bundle,
        lambda e: replace(e, commitments=(FALSE,) * len(e.commitments)),
    )


@lie("deal-to-fewer", "ShareBundle", needs=BY)
def _deal_to_fewer(moment: Moment, bundle: ShareBundle) -> ShareBundle:
    """One recipient gets no shares."""
    return ShareBundle(bundle.shares[:-1])


@lie("deal-without-commitments", "ShareBundle", needs=BY)
def _deal_without(moment: Moment, bundle: ShareBundle) -> ShareBundle:
    """One recipient's shares come without signed commitments."""
    return ShareBundle((replace(bundle.shares[0], commitments=()), *bundle.shares[1:]))


# ---------------------------------------------------------------- step 11


def _bent(share: RevealedShare) -> RevealedShare:
    return replace(share, value=share.value[:-1] + bytes([share.value[-1] ^ 1]))


@lie("reveal-false", "Unmask", needs=BY)
def _reveal_false(moment: Moment, reveal: Unmask) -> Unmask:
    """One share revealed is not the one that was dealt."""
    return replace(reveal, seed_shares=(_bent(reveal.seed_shares[0]), *reveal.seed_shares[1:]))


@lie("reveal-swapped", "Unmask", needs=BY)
def _reveal_swapped(moment: Moment, reveal: Unmask) -> Unmask:
    """The share of one dealer is passed off as that of another."""
    first, second, *rest = reveal.seed_shares
    other = replace(first, value=second.value, salt=second.salt)
    return replace(reveal, seed_shares=(other, second, *rest))


@lie("reveal-twice", "Unmask", needs=BY)
def _reveal_twice(moment: Moment, reveal: Unmask) -> Unmask:
    """One share is revealed twice, to stand for one that is missing."""
    return replace(reveal, seed_shares=(reveal.seed_shares[0], *reveal.seed_shares))


@lie("reveal-both-kinds", "", needs=("by", "client"))
def _reveal_both(moment: Moment, body: object) -> object:
    """The mask-key share of `client`, who is accepted, is given out with its seed share."""
    stage, name = moment.stage, moment.speaker.name
    state = stage.clients[name].state
    if isinstance(state, Voted):  # a state machine erases its shares; a liar writes them down
        stage.hoard[name] = state.held
    if not isinstance(body, Unmask):
        return None
    own = stage.hoard[name][moment.client]
    return replace(body, key_shares=(RevealedShare(moment.client, own.key, own.key_salt),))


@lie("reveal-stranger", "Unmask", needs=BY)
def _reveal_stranger(moment: Moment, reveal: Unmask) -> Unmask:
    """A share of somebody who dealt none is revealed."""
    entry = RevealedShare(OUTSIDER, bytes(33), bytes(32))
    return replace(reveal, seed_shares=(*reveal.seed_shares, entry))


@lie("reveal-for-another-cohort", "Unmask", needs=BY)
def _reveal_elsewhere(moment: Moment, reveal: Unmask) -> Signed:
    """The shares refer to another cohort."""
    return Signed(reveal, {"refers_to": bytes(32)})


@lie("reveal-nothing", "Unmask", needs=BY)
def _reveal_nothing(moment: Moment, reveal: Unmask) -> Unmask:
    """No share is revealed."""
    return Unmask((), ())
