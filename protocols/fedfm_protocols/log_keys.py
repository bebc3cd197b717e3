"""Which key signs the log's checkpoints, as a witness knows it: the charter's, or the one that the
last change it has seen names.

A change is a leaf, signed by the key in force, and counts once a witness has seen it in a
checkpoint.  From there on the key before it signs nothing more.  Source: protocols/README.md,
section "Witness"; in-toto Statement v1, DSSE.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_open
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.note import NoteAlgorithm, parse_vkey
from fedfm_protocols.charter import LogSection
from fedfm_protocols.enrolment import STATEMENT_PAYLOAD_TYPE, STATEMENT_TYPE
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.federation import Federation

LOG_KEY_TYPE = "urn:secure-fedfm:log-key:v1"


def log_in_force(federation: Federation, changes: Sequence[bytes]) -> LogSection:
    """The charter's log with the key that a sequence of changes leads to.

    Raises
    ------
    EquivocationError
        if they are not changes of this log that follow from each other.
    """
    log = federation.charter.log
    keys = [log.key]
    for leaf in changes:
        keys.append(_next_key(federation, keys, leaf))
    return log if len(keys) == 1 else LogSection(origin=log.origin, key=keys[-1])


def _next_key(federation: Federation, keys: Sequence[str], leaf: bytes) -> str:
    """The key that a change hands the log over to; ``keys`` are those before it, in order."""
    signer = parse_vkey(keys[-1]).public
    try:
        opened = dsse_open(
            leaf, payload_type=STATEMENT_PAYLOAD_TYPE, keys={signer.hex: signer}, threshold=1
        )
        document = canonical_decode(opened.payload)
        predicate = document["predicate"] if isinstance(document, dict) else None
        named = predicate["key"] if isinstance(predicate, dict) else None
        if not isinstance(named, str):
            raise EquivocationError("names no key")
        key = parse_vkey(named)
        if opened.payload != _statement(federation, keys, named):
            raise EquivocationError(f"is not change number {len(keys)} from {keys[-1]}")
        if (key.name, key.algorithm) != (federation.charter.log.origin, NoteAlgorithm.ED25519):
            raise EquivocationError(f"names {named}, which is no key of this log")
        if key.public in {parse_vkey(known).public for known in keys}:
            raise EquivocationError(f"names {named}, which signed this log before")
    except (FedFMError, KeyError) as error:
        raise EquivocationError(f"a change of the log's key is not one: {error}") from error
    return named


def _statement(federation: Federation, keys: Sequence[str], key: str) -> bytes:
    """The one statement of this change, in canonical JSON."""
    digest = hashlib.sha256(parse_vkey(key).public.raw).hexdigest()
    return canonical_encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"log-keys/{len(keys):06d}", "digest": {"sha256": digest}}],
            "predicateType": LOG_KEY_TYPE,
            "predicate": {
                "charter": federation.charter_hash.hex(),
                "sequence": len(keys),
                "previous": keys[-1],
                "key": key,
            },
        }
    )
