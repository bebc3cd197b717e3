"""What every client transition does: take a message, say something, end the round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.checks import OpenSet, open_signed_set, place_of
from fedfm_protocols.client_states import (
    ClientMemory,
    ClientSite,
    ClientState,
    Idle,
    InRound,
    Session,
)
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.effects import Persist, RoundEnded, Send, Transition
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import RoundRefused
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import Body, type_name
from fedfm_protocols.sketching import Sketching
from fedfm_protocols.steps import Ahead, StepResult, when_needed


def no_objection() -> str:
    """Nothing stands against another round."""
    return ""


@dataclass(frozen=True, slots=True)
class ClientContext:
    """What a transition may use besides state and event: the site and its randomness.

    ``encryption`` is there in the suites that encrypt, ``sketching`` in robust federations.
    ``objection`` says what stands against another round at this site, for example a privacy budget
    that is spent; it is read like a clock.
    ``open_set`` verifies signed sets; only a simulation of many clients puts another one here.
    ``ahead`` begins work that will be needed later, in another thread for example.

    Source: protocols/README.md, section "A round".
    """

    site: ClientSite
    random: RandomSource
    encryption: Encryption | None = None
    objection: Callable[[], str] = no_objection
    open_set: OpenSet = open_signed_set
    ahead: Ahead[Any] = when_needed
    sketching: Sketching | None = None

    def need_encryption(self) -> Encryption:
        """The encryption of a suite that cannot do without."""
        return needed(self.encryption, self.site.federation)

    def need_sketching(self) -> Sketching:
        """The sketches of a robust federation.

        Raises
        ------
        RoundRefused
            if whoever runs this site passed none in.
        """
        if self.sketching is None:
            raise RoundRefused(
                "this federation's updates are judged by their sketches and this site has no "
                "sketching at hand; install the federation extra"
            )
        return self.sketching


def needed(encryption: Encryption | None, federation: Federation) -> Encryption:
    """``encryption``, which whoever runs this suite must have passed in.

    Raises
    ------
    RoundRefused
        if there is none.
    """
    if encryption is None:
        raise RoundRefused(
            f"suite {federation.charter.suite} encrypts updates and this site has no encryption "
            "at hand; install the federation extra"
        )
    return encryption


def taken(session: Session, envelope: Envelope) -> Session:
    header = envelope.header
    return replace(
        session,
        taken={**session.taken, place_of(envelope): header.body_hash},
        received=session.received + 1,
    )


def say(
    context: ClientContext,
    memory: ClientMemory,
    session: Session,
    body: Body,
    refers_to: bytes = NO_HASH,
) -> tuple[Session, Send]:
    data = encode(body)
    digest = hashlib.sha256(data).digest()
    return say_encoded(context, memory, session, type(body), data, digest, refers_to)


def say_encoded(
    context: ClientContext,
    memory: ClientMemory,
    session: Session,
    kind: type[Body],
    body: bytes,
    digest: bytes,
    refers_to: bytes = NO_HASH,
) -> tuple[Session, Send]:
    """As :func:`say`, of a body of type ``kind`` that was encoded and hashed (SHA-256) before."""
    site = context.site
    envelope = seal_envelope(
        site.key,
        context=session.context,
        type=type_name(kind),
        sender=site.name,
        step=session.step,
        sequence=session.sent,
        refers_to=refers_to,
        checkpoint=session.head,
        body=body,
        body_hash=digest,
    )
    return replace(session, sent=session.sent + 1), Send(site.federation.coordinator, envelope)


def end_round(
    state: InRound, outcome: str, reason: str, agreed: StepResult | None = None
) -> Transition[ClientState]:
    """Leave the round; with what a quorum ``agreed`` on if it was completed."""
    session, memory = state.session, state.memory
    identity = session.identity
    adopted, steps = b"", 0
    if agreed is not None:
        # From here on a quorum is known to hold this key, and the one before may go.
        memory = replace(memory, keys=memory.keys.activate(identity.key_epoch))
        if not identity.makes_keys:
            adopted, steps = agreed.aggregate_hash, agreed.step + 1
            memory = replace(
                memory,
                last_applied=identity.round,
                completed=memory.completed + 1,
                adapter_hash=agreed.adapter_hash,
            )
    return Transition(
        Idle(memory),
        (
            # The adapter is on disk before the journal says that it is in force.
            RoundEnded(
                identity.round,
                identity.kind,
                outcome,
                reason,
                memory.adapter_hash,
                adopted,
                steps,
            ),
            Persist(identity.round, session.step, "closed", outcome.encode()),
        ),
    )
