"""A round that the coordinator did not live to finish: aborted, in the log, before anything else.

What of its transcript was in memory is gone; its opening was journalled, so the evidence shows
that it began and that it came to nothing.
"""

from __future__ import annotations

import logging

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.context import KEYS
from fedfm_protocols.coordinator_inbox import transcript_entry
from fedfm_protocols.coordinator_round import Round, RoundTranscript
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import RoundClose, RoundOpen, read_body, type_name
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.storage.database import Database

LOG = logging.getLogger("secure_fedfm.coordinator")
_SKETCH_KEY = "sketch-key"  # in force in the round that was opened last
REASON = "the coordinator was restarted during the round"


def sketch_key_of(opened: Round) -> dict[str, bytes]:
    """What the evidence of a round needs besides its opening, for the state file: the validator's
    signed key, where it judges."""
    return {} if opened.sketch is None else {_SKETCH_KEY: opened.sketch.envelope.encode()}


def close_interrupted_round(
    evidence: Evidence, database: Database, federation: Federation, key: IdentityKey
) -> bool:
    """Log as aborted every round that was opened and has no statement yet; whether there was one.

    To be called once the witnesses agree that this log is not an old copy: it grows here.
    """
    closed = False
    for number, record, value in database.journal():
        if record != "opened" or number <= evidence.history.last_round:
            continue
        opened = Envelope.decode(value)
        body = read_body(opened, RoundOpen)
        made = evidence.history.key
        used = None if made is None or made.epoch != body.key_epoch else made
        close = seal_envelope(
            key,
            context=opened.header.context,
            type=type_name(RoundClose),
            sender=federation.coordinator,
            step=0,
            sequence=opened.header.sequence + 1,
            checkpoint=opened.header.checkpoint,
            body=encode(RoundClose("aborted", REASON, body.adapter_hash, ())),
        )
        evidence.record_outcome(
            number=number,
            kind=body.kind,
            outcome="aborted",
            reason=REASON,
            adapter_out=body.adapter_hash,
            transcript=RoundTranscript(
                setup=tuple(map(transcript_entry, (opened, *_named_keys(database, body)))),
                close=(transcript_entry(close),),
            ),
            steps=body.steps,
            good=0,
            key=used,
        )
        LOG.warning("round %d was interrupted and is logged as aborted", number)
        closed = True
    return closed


def _named_keys(database: Database, body: RoundOpen) -> tuple[Envelope, ...]:
    """The sketch key of the round that was interrupted, in a robust federation."""
    stored = database.recall(_SKETCH_KEY)
    return () if stored is None or body.kind == KEYS else (Envelope.decode(stored),)
