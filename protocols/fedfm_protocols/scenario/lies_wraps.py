"""Step 4 with encryption: keys of uploads that are missing, copied, exchanged or malformed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client_states import Committed
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.key_messages import WrappedKey
from fedfm_protocols.messages import UploadHash, UploadSet
from fedfm_protocols.scenario.actors import body_of, member
from fedfm_protocols.scenario.lies import Moment, Signed, lie

BY = ("by",)
POISONED = b"\x66" * 32

# ---------------------------------------------------------------- step 4a, clients


@lie("commit-to-no-wrap", "UploadHash", needs=BY)
def _commit_no_wrap(moment: Moment, committed: UploadHash) -> UploadHash:
    """An upload is committed to, and no wrapped key that would open it."""
    return replace(committed, wrap_hash=NO_HASH)


@lie("commit-to-a-wrap", "UploadHash", needs=BY)
def _commit_a_wrap(moment: Moment, committed: UploadHash) -> UploadHash:
    """A wrapped key is committed to in a suite that has none."""
    return replace(committed, wrap_hash=POISONED)


@lie("copy-wrap-hash", "UploadHash", needs=("by", "client"))
def _copy_wrap_hash(moment: Moment, committed: UploadHash) -> object:
    """A late uploader commits to the wrapped key that `client` committed to."""
    seen = moment.stage.last("UploadHash", moment.client)
    if seen is None:
        return None
    return replace(committed, wrap_hash=body_of(seen, UploadHash).wrap_hash)


def _commit(moment: Moment, committed: UploadHash, wrap: bytes) -> UploadHash:
    """Commit to ``wrap``, and have it sent later."""
    fake = encode(WrappedKey(wrap))
    digest = hashlib.sha256(fake).digest()
    client = moment.stage.clients[moment.speaker.name]
    if isinstance(client.state, Committed):
        own = replace(client.state.upload, wrap=fake, wrap_hash=digest)
        client.state = replace(client.state, upload=own)
    return replace(committed, wrap_hash=digest)


@lie("wrap-sized", "UploadHash", needs=("by", "count"))
def _wrap_sized(moment: Moment, committed: UploadHash) -> UploadHash:
    """A wrapped key of `count` bytes is committed to, and then sent."""
    return _commit(moment, committed, bytes(moment.count))


@lie("wrap-of-earlier-round", "UploadHash", needs=("by", "client"))
def _wrap_of_earlier(moment: Moment, committed: UploadHash) -> object:
    """The wrapped key that `client` sent in an earlier round is committed to and sent again."""
    for _, sender, _, envelope in reversed(moment.stage.earlier):
        if envelope.header.type == "WrappedKey" and sender == moment.client:
            return _commit(moment, committed, body_of(envelope, WrappedKey).wrap)
    return None


# ---------------------------------------------------------------- step 4b, coordinator


def _own(moment: Moment, upload_set: UploadSet) -> UploadHash:
    place = member(upload_set.hashes, moment.client)
    return body_of(Envelope.decode(upload_set.hashes[place]), UploadHash)


@lie("hash-without-wrap", "UploadSet", needs=("client",), signs_for=True)
def _without_wrap(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """An accomplice's commitment to no wrapped key is let through."""
    changed = replace(_own(moment, upload_set), wrap_hash=NO_HASH)
    return UploadSet(moment.accomplice(upload_set.hashes, changed))


@lie("hash-with-wrap", "UploadSet", needs=("client",), signs_for=True)
def _with_wrap(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """An accomplice's commitment to a wrapped key is let through in a suite that has none."""
    changed = replace(_own(moment, upload_set), wrap_hash=POISONED)
    return UploadSet(moment.accomplice(upload_set.hashes, changed))


@lie("copied-wrap-hash", "UploadSet", needs=("client",), signs_for=True)
def _copied_wrap(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """An accomplice commits to the wrapped key of the first client in the set."""
    first = body_of(Envelope.decode(upload_set.hashes[0]), UploadHash)
    changed = replace(_own(moment, upload_set), wrap_hash=first.wrap_hash)
    return UploadSet(moment.accomplice(upload_set.hashes, changed))


@lie("change-wrap-hash", "UploadSet", needs=("client",), signs_for=True)
def _change_wrap(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """The upload set holds another wrapped key by `client`, properly signed with its key."""
    changed = replace(_own(moment, upload_set), wrap_hash=POISONED)
    return UploadSet(moment.accomplice(upload_set.hashes, changed))


# ---------------------------------------------------------------- step 4c, clients


@lie("wrap-other", "WrappedKey", needs=BY)
def _wrap_other(moment: Moment, wrapped: WrappedKey) -> WrappedKey:
    """Another wrapped key is sent than was committed to."""
    return WrappedKey(wrapped.wrap[:-1] + bytes([wrapped.wrap[-1] ^ 1]))


@lie("wrap-elsewhere", "WrappedKey", needs=BY)
def _wrap_elsewhere(moment: Moment, wrapped: WrappedKey) -> Signed:
    """The wrapped key refers to another upload set."""
    return Signed(wrapped, {"refers_to": bytes(32)})
