"""The key sum that was opened, repeated: which wrapped keys the holders were asked to add.

The sum itself never travels: every holder adds the wrapped keys by itself.  What an auditor can
repeat is what they were given: the KeyRequest that the active set answered is made of exactly the
accepted clients' signed wrapped keys, these add up to a ciphertext that a holder may open, and the
openings in the Aggregate are the ones that the set signed.
Source: protocols/README.md, messages 7a, 11b and 12; crypto/README.md for the wrapped key.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from fedfm_audit.archive import ArchivedBody
from fedfm_audit.arithmetic.bodies import Openings, read_wrap
from fedfm_audit.entries import Entry
from fedfm_audit.errors import ArchiveError
from fedfm_audit.messages import Names
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CiphertextError, CodecError
from fedfm_crypto.lattice.portable_sums import add_wraps

_LENGTH = 4


def check_key_sum(
    wraps: Sequence[tuple[Entry, ArchivedBody]],
    requests: Sequence[Entry],
    openings: Sequence[Entry],
    threshold: int,
) -> Iterator[str]:
    """What is wrong with the wrapped keys (of the accepted, by sender) or with the requests that
    ``threshold`` holders answered; a request that was not answered in full names holders that
    nobody but the coordinator knows, and is passed over.

    Memory for one wrapped key, however many there are.
    """
    answered: dict[bytes, list[str]] = defaultdict(list)
    for entry in openings:
        answered[entry.header.refers_to].append(entry.header.sender)
    checked = [e for e in requests if len(answered[e.header.refers_to]) == threshold]
    digests = []
    for request in checked:
        names = tuple(sorted(answered[request.header.refers_to]))
        digest = hashlib.sha256(encode(Names(names)))
        digest.update(len(wraps).to_bytes(_LENGTH, "big"))
        digests.append(digest)
    total, whole = None, True
    for entry, body in wraps:
        try:
            data = read_wrap(entry, body)
            total = add_wraps(total, memoryview(data)[_LENGTH:])
        except (ArchiveError, CiphertextError) as error:
            yield f"WrappedKey of {entry.header.sender}: {error}"
            whole = False
            continue
        envelope = Envelope(entry.header, entry.signed.signature, data).encode()
        for digest in digests:
            digest.update(len(envelope).to_bytes(_LENGTH, "big"))
            digest.update(envelope)
    if not whole:
        return
    if total is not None and not np.any(total[1]):
        yield "the wrapped keys cancel each other: their sum is not encrypted"
    for request, digest in zip(checked, digests, strict=True):
        if digest.digest() != request.header.body_hash:
            yield (
                "KeyRequest is not made of exactly the accepted clients' wrapped keys: "
                f"{', '.join(sorted(answered[request.header.refers_to]))} opened another key sum"
            )


def check_openings(tail: bytes, openings: Sequence[Entry], threshold: int) -> Iterator[str]:
    """What is wrong with the end of an Aggregate: with encryption (``threshold`` above 0) the
    signed openings of one active set that answered in full, else nothing."""
    try:
        listed = decode(Openings, tail).openings
    except CodecError as error:
        yield f"its openings do not decode: {error}"
        return
    signed = {encode(entry.signed): entry for entry in openings}
    found: list[Entry] = []
    for data in listed:
        try:
            envelope = Envelope.decode(data)
            entry = signed[encode(envelope.signed_header)]
            entry.signed.check_body(envelope.body)
        except (CodecError, KeyError):
            yield "holds an opening that is no KeyOpening of this step's transcript"
            return
        found.append(entry)
    names = [entry.header.sender for entry in found]
    if names != sorted(set(names)) or len(names) != threshold:
        yield f"holds openings of {', '.join(names) or 'nobody'}, expected {threshold} holders'"
    if len({entry.header.refers_to for entry in found}) > 1:
        yield "holds openings of two active sets"
