"""How a validator says something.

Source: protocols/README.md, section "The validator".
"""

from __future__ import annotations

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, seal_envelope
from fedfm_protocols.messages import Body, type_name
from fedfm_protocols.validator_states import ValidatorContext


def speak(
    context: ValidatorContext,
    signed_for: bytes,
    step: int,
    sequence: int,
    body: Body,
    refers_to: bytes,
    checkpoint: CheckpointSeen,
) -> Envelope:
    """The validator's signed word under ``signed_for``; it echoes the log's head that the round
    was opened with."""
    return seal_envelope(
        context.site.key,
        context=signed_for,
        type=type_name(type(body)),
        sender=context.site.name,
        step=step,
        sequence=sequence,
        refers_to=refers_to,
        checkpoint=checkpoint,
        body=encode(body),
    )
