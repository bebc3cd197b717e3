"""Malicious clients: offers, uploads, votes and acknowledgements; broken bytes of any party."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedfm_crypto.codec import decode, encode
from fedfm_protocols.client_states import Committed
from fedfm_protocols.messages import (
    CohortVote,
    GraphNonce,
    KeyOffer,
    RoundAck,
    StepOffer,
    Upload,
    UploadHash,
)
from fedfm_protocols.scenario.actors import body_of
from fedfm_protocols.scenario.lies import Moment, Signed, lie

BY = ("by",)
P = 2**255 - 19

# ---------------------------------------------------------------- step 1


@lie("offer-low-order", "KeyOffer", needs=BY)
def _offer_low_order(moment: Moment, offer: KeyOffer) -> KeyOffer:
    """The mask key offered is a point of low order."""
    return replace(offer, steps=(replace(offer.steps[0], mask_key=bytes(32)), *offer.steps[1:]))


@lie("offer-non-canonical", "KeyOffer", needs=BY)
def _offer_non_canonical(moment: Moment, offer: KeyOffer) -> KeyOffer:
    """The share key offered is not canonical: 9 + p instead of 9."""
    return replace(offer, share_key=(P + 9).to_bytes(32, "little"))


@lie("offer-no-steps", "KeyOffer", needs=BY)
def _offer_no_steps(moment: Moment, offer: KeyOffer) -> KeyOffer:
    """No mask key is offered."""
    return replace(offer, steps=())


@lie("offer-one-key-twice", "KeyOffer", needs=BY)
def _offer_one_key_twice(moment: Moment, offer: KeyOffer) -> KeyOffer:
    """One key is offered for sealing and for masking."""
    first = StepOffer(offer.share_key, offer.steps[0].seed_commitment)
    return replace(offer, steps=(first, *offer.steps[1:]))


@lie("offer-copied-keys", "KeyOffer", needs=("by", "client"))
def _offer_copied(moment: Moment, offer: KeyOffer) -> object:
    """The keys of `client`, who has spoken before, are offered."""
    seen = moment.stage.last("KeyOffer", moment.client)
    return None if seen is None else body_of(seen, KeyOffer)


@lie("open-other-nonce", "GraphNonce", needs=BY)
def _other_nonce(moment: Moment, nonce: GraphNonce) -> GraphNonce:
    """Another graph nonce is opened than was committed to (sparse graph)."""
    return GraphNonce(b"\x66" * 32)


# ---------------------------------------------------------------- step 4


@lie("commit-for-other-dealers", "UploadHash", needs=BY)
def _commit_other_dealers(moment: Moment, committed: UploadHash) -> Signed:
    """The upload hash says that it was masked for other dealers."""
    return Signed(committed, {"refers_to": bytes(32)})


@lie("copy-upload-hash", "UploadHash", needs=("by", "client"))
def _copy_upload_hash(moment: Moment, committed: UploadHash) -> object:
    """A late uploader commits to the very upload that `client` committed to."""
    seen = moment.stage.last("UploadHash", moment.client)
    return None if seen is None else body_of(seen, UploadHash)


@lie("upload-other", "Upload", needs=BY)
def _upload_other(moment: Moment, upload: Upload) -> Upload:
    """Another upload is sent than was committed to."""
    return Upload(bytes(len(upload.words)))


@lie("upload-elsewhere", "Upload", needs=BY)
def _upload_elsewhere(moment: Moment, upload: Upload) -> Signed:
    """The upload refers to another upload set."""
    return Signed(upload, {"refers_to": bytes(32)})


@lie("upload-sized", "UploadHash", needs=("by", "count"))
def _upload_sized(moment: Moment, committed: UploadHash) -> UploadHash:
    """An upload of `count` bytes is committed to, and then sent."""
    return _commit(moment, committed, bytes(moment.count))


@lie("upload-out-of-range", "UploadHash", needs=BY)
def _upload_out_of_range(moment: Moment, committed: UploadHash) -> object:
    """An upload of the right length, all ones, is committed to and sent: with encryption these are
    residues out of range."""
    state = moment.stage.clients[moment.speaker.name].state
    if not isinstance(state, Committed):
        return None
    honest = decode(Upload, state.upload.upload)
    return _commit(moment, committed, b"\xff" * len(honest.words))


def _commit(moment: Moment, committed: UploadHash, words: bytes) -> UploadHash:
    """Commit to ``words``, and have them sent later."""
    fake = encode(Upload(words))
    digest = hashlib.sha256(fake).digest()
    client = moment.stage.clients[moment.speaker.name]
    if isinstance(client.state, Committed):
        own = replace(client.state.upload, upload=fake, upload_hash=digest)
        client.state = replace(client.state, upload=own)
    return replace(committed, upload_hash=digest)


# ---------------------------------------------------------------- steps 9 and 14


@lie("vote-for-another", "CohortVote", needs=BY)
def _vote_for_another(moment: Moment, vote: CohortVote) -> CohortVote:
    """The vote is for another cohort than was proposed."""
    return CohortVote(b"\x66" * 32)


@lie("acknowledge-another-adapter", "RoundAck", needs=BY)
def _ack_another(moment: Moment, ack: RoundAck) -> RoundAck:
    """Another adapter is acknowledged than was computed."""
    return RoundAck(b"\x66" * 32)


@lie("acknowledge-another-sum", "RoundAck", needs=BY)
def _ack_another_sum(moment: Moment, ack: RoundAck) -> Signed:
    """The acknowledgement refers to another sum."""
    return Signed(ack, {"refers_to": bytes(32)})


# ---------------------------------------------------------------- any message


@lie("speak-as", "", needs=("by", "client"))
def _speak_as(moment: Moment, body: object) -> Signed:
    """Every message claims to be from `client`, though the liar signs it."""
    return Signed(moment.envelope.body, {"sender": moment.client})


@lie("skip-ahead", "ShareBundle", needs=BY)
def _skip_ahead(moment: Moment, body: object) -> Signed:
    """A vote is sent where shares are due."""
    return Signed(CohortVote(bytes(32)), {"type": "CohortVote"})


SECOND: dict[str, Callable[[Any], object]] = {
    "KeyOffer": lambda body: replace(body, nonce_commitment=bytes(32)),
    "GraphNonce": lambda body: GraphNonce(bytes(32)),
    "ShareBundle": lambda body: replace(body, shares=body.shares[:-1]),
    "UploadHash": lambda body: replace(body, upload_hash=bytes(32)),
    "Upload": lambda body: Upload(bytes(len(body.words))),
    "CohortVote": lambda body: CohortVote(bytes(32)),
    "Unmask": lambda body: replace(body, seed_shares=body.seed_shares[:-1]),
    "RoundAck": lambda body: RoundAck(bytes(32)),
}


@lie("say-another", "", needs=BY)
def _say_another(moment: Moment, body: object) -> object:
    """Every message has another body (with `honest` the true one comes as well)."""
    change = SECOND.get(moment.envelope.header.type)
    return None if change is None else change(body)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "truncated": lambda body: body[:-1],
    "trailing-byte": lambda body: body + b"\x00",
    "doubled": lambda body: body * 2,
    "all-ones": lambda body: b"\xff" * max(len(body), 40),
}


@lie("malformed", "", needs=("by", "damage"))
def _malformed(moment: Moment, body: object) -> bytes:
    """Every message of `by` (any party) is broken bytes, properly signed: `empty`, `truncated`,
    `trailing-byte`, `doubled` or `all-ones` (lengths of 2^32 - 1)."""
    return DAMAGE[moment.form.damage or "empty"](moment.envelope.body)
