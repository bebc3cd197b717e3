"""The client's side of a round, as a pure function of (state, event).

Transition function :func:`client_step`; states in ``client_states``; one module per group of
steps, numbered as in protocols/README.md.  Rules that every handler keeps:

1.  An envelope is looked at only after its signature, sender, context and step were checked.
2.  The coordinator may say each thing once: a second body of the same type is equivocation.
3.  What must survive a crash is persisted before the message that depends on it is sent.
4.  Secrets live in the state that needs them and are not carried on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.checks import check_place, place_of, verify_signature
from fedfm_protocols.client_cohort import unmask, vote_cohort
from fedfm_protocols.client_decrypt import open_keys
from fedfm_protocols.client_epoch import take_key_delivery
from fedfm_protocols.client_keys import take_nonces, take_roster, take_shares
from fedfm_protocols.client_opening import open_round
from fedfm_protocols.client_result import acknowledge, close_round, take_aggregate
from fedfm_protocols.client_robust import (
    sketch_update,
    take_binding,
    take_sketch_key,
    take_verdict,
    vote_judged,
)
from fedfm_protocols.client_session import ClientContext, end_round
from fedfm_protocols.client_states import (
    Applying,
    Binding,
    ClientState,
    Committed,
    Idle,
    InRound,
    Judged,
    KeyDealt,
    NonceOpened,
    Offered,
    Opened,
    Shared,
    Sketched,
    Training,
    Unmasked,
    Uploaded,
    Voted,
)
from fedfm_protocols.client_upload import commit_upload, send_upload
from fedfm_protocols.effects import AdapterComputed, Event, Received, Transition, UpdateReady
from fedfm_protocols.errors import (
    EquivocationError,
    OutOfOrder,
    ReplayedMessage,
    RoundRefused,
    UnknownSender,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_messages import KeyDelivery, KeyRequest
from fedfm_protocols.messages import (
    Aggregate,
    Cohort,
    CohortProof,
    GraphNonces,
    KeyRoster,
    RoundClose,
    RoundOpen,
    ShareDelivery,
    UploadSet,
    type_name,
)
from fedfm_protocols.robust_messages import BeaconNonces, BindingResult, SketchKey, Verdict
from fedfm_protocols.split_view import check_echo


def client_step(
    context: ClientContext, state: ClientState, event: Event
) -> Transition[ClientState]:
    """One transition of the client.

    Raises
    ------
    MessageRefused
        the message is dropped, the caller keeps the old state.
    RoundViolation
        the round is over for this client; the caller goes to :func:`leave_round`.
    DivergenceError
        this site computed another adapter than the quorum; it must catch up or stop.
    """
    if isinstance(event, Received):
        return _receive(context, state, event.envelope)
    if isinstance(event, UpdateReady) and isinstance(state, Training):
        return commit_upload(context, state, event)
    if isinstance(event, AdapterComputed) and isinstance(state, Applying):
        return acknowledge(context, state, event)
    raise OutOfOrder(f"a client in state {type(state).__name__} has no use for this event")


def leave_round(state: ClientState, reason: str) -> Transition[ClientState]:
    """Drop a round after a violation: secrets go, the adapter stays as it was."""
    if isinstance(state, Idle):
        return Transition(state)
    return end_round(state, "aborted", reason)


# ---------------------------------------------------------------- receiving


def _receive(
    context: ClientContext, state: ClientState, envelope: Envelope
) -> Transition[ClientState]:
    federation = context.site.federation
    header = envelope.header
    if federation.robust and header.type == type_name(SketchKey):
        return take_sketch_key(context, state, envelope)
    if federation.robust and header.type in VALIDATOR_MESSAGES:
        _check_validator(federation, envelope)  # passed on by the coordinator as it was signed
    elif header.sender != federation.coordinator:
        raise UnknownSender(
            f"{header.type} from {header.sender}; clients take messages of a round only from "
            f"the coordinator {federation.coordinator}"
        )
    verify_signature(envelope, federation)
    if header.type == type_name(RoundOpen):
        return open_round(context, state, envelope)
    if isinstance(state, Idle):
        raise OutOfOrder(f"{header.type} while in no round")
    _refuse_second(state, envelope)
    if header.type == type_name(RoundClose):
        return close_round(context, state, envelope)
    if isinstance(state, Training) and header.type == type_name(UploadSet):
        check_place(envelope, context=state.session.context, step=state.session.step)
        raise RoundRefused("the round went on before this site had finished training")
    waited = _HANDLERS.get(type(state), {})
    handler = waited.get(header.type)
    if handler is None:
        raise OutOfOrder(
            f"{header.type} in state {type(state).__name__}, which waits for "
            f"{' or '.join(waited) or 'its own side'}"
        )
    if header.type != type_name(KeyRoster):  # a roster fixes its own context, take_roster checks it
        check_place(envelope, context=state.session.context, step=state.session.step)
        check_echo(state.session.head, state.session.note, envelope)
    transition: Transition[ClientState] = handler(context, state, envelope)
    return transition


VALIDATOR_MESSAGES = frozenset({type_name(Verdict), type_name(BindingResult)})
# State -> message that it waits for -> handler.  The handlers' state types differ, hence Any.
_HANDLERS: Mapping[type[InRound], Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        Offered: {type_name(KeyRoster): take_roster},
        Opened: {type_name(GraphNonces): take_nonces},
        KeyDealt: {type_name(KeyDelivery): take_key_delivery},
        Shared: {type_name(ShareDelivery): take_shares},
        Committed: {type_name(UploadSet): send_upload},
        Uploaded: {type_name(Cohort): vote_cohort},
        NonceOpened: {type_name(BeaconNonces): sketch_update},
        Sketched: {type_name(Verdict): take_verdict},
        Judged: {type_name(Cohort): vote_judged},
        Binding: {type_name(BindingResult): take_binding},
        Voted: {type_name(CohortProof): unmask},
        Unmasked: {type_name(KeyRequest): open_keys, type_name(Aggregate): take_aggregate},
    }
)


def _check_validator(federation: Federation, envelope: Envelope) -> None:
    header = envelope.header
    if header.sender != federation.validator:
        raise UnknownSender(
            f"{header.type} from {header.sender}; it is the validator's to say "
            f"({federation.validator})"
        )


def _refuse_second(state: InRound, envelope: Envelope) -> None:
    """Rule 2: the same body again is a resend, another body is proof of two stories."""
    header, session = envelope.header, state.session
    taken = session.taken.get(place_of(envelope))
    if taken is None:
        return
    if taken == header.body_hash:
        raise ReplayedMessage(f"{header.type} was taken already")
    of_this_round = header.context == session.context or (
        header.type == type_name(KeyRoster) and header.context == session.context1(header.body_hash)
    )
    if of_this_round and header.step == session.step:
        speaker = header.sender if header.type in VALIDATOR_MESSAGES else "the coordinator"
        raise EquivocationError(
            f"{speaker} signed two different {header.type} messages in round "
            f"{session.identity.round}: {taken.hex()[:16]} and {header.body_hash.hex()[:16]}"
        )
