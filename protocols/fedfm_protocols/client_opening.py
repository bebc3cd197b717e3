"""Client, steps 0 and 1: whether to join a round, and the keys it offers for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.checks import check_place, is_sorted_unique
from fedfm_protocols.client_session import ClientContext, end_round, say, taken
from fedfm_protocols.client_states import ClientMemory, ClientState, Idle, Offered, Session
from fedfm_protocols.context import RoundIdentity
from fedfm_protocols.effects import Effect, Persist, Transition
from fedfm_protocols.errors import EquivocationError, ReplayedMessage, RoundRefused
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import RoundOpen, read_body
from fedfm_protocols.offers import make_offer
from fedfm_protocols.witness import extend_checkpoint

ROUND_KINDS = ("train",)


def open_round(
    context: ClientContext, state: ClientState, envelope: Envelope
) -> Transition[ClientState]:
    federation, name = context.site.federation, context.site.name
    memory = state.memory
    opened = read_body(envelope, RoundOpen)
    identity = RoundIdentity.of(federation.charter_hash, opened)
    context0 = identity.context0()
    check_place(envelope, context=context0, step=0)
    if not isinstance(state, Idle) and state.session.context0 == context0:
        raise ReplayedMessage(f"RoundOpen of round {opened.round} was taken already")
    if opened.round <= memory.last_opened:
        _refuse_repeated(state, opened.round)
    _check_opening(context, memory, opened)
    checkpoint = memory.checkpoint
    if opened.checkpoint:
        checkpoint = extend_checkpoint(
            checkpoint, opened.checkpoint, opened.consistency, federation.charter.log
        )
    memory = replace(memory, last_opened=opened.round, checkpoint=checkpoint)
    secrets = RoundSecrets.draw(opened.steps, context.random)
    offer = make_offer(federation, context0, name, secrets)
    session = taken(
        Session(identity, context0, context0, step=0, sent=0, taken={}, received=0), envelope
    )
    session, send = say(context, memory, session, offer)
    effects: list[Effect] = []
    if not isinstance(state, Idle):
        reason = f"round {opened.round} was opened"
        effects += end_round(state, "aborted", reason, memory.adapter_hash).effects
    effects += [Persist(opened.round, "opened", context0), send]
    return Transition(Offered(memory, session, secrets, send.envelope.encode()), tuple(effects))


def _refuse_repeated(state: ClientState, number: int) -> NoReturn:
    if isinstance(state, Idle):
        raise RoundRefused(
            f"round {number} was opened before (last was {state.memory.last_opened}); "
            "a repeated round must have a new number"
        )
    if number == state.session.identity.round:
        raise EquivocationError(f"the coordinator signed two different openings of round {number}")
    # A late copy from the past must not end the round that this site is in.
    raise ReplayedMessage(f"round {number} was opened before")


def _check_opening(context: ClientContext, memory: ClientMemory, opened: RoundOpen) -> None:
    federation, name = context.site.federation, context.site.name
    thresholds = federation.thresholds
    refusals: list[tuple[Callable[[], bool], str]] = [
        (lambda: opened.steps == 1, f"has {opened.steps} steps; this version runs 1"),
        (lambda: opened.kind in ROUND_KINDS, f"is of unknown kind {opened.kind!r}"),
        (lambda: opened.key_epoch == 0, f"names key epoch {opened.key_epoch}, expected 0"),
        (
            lambda: (
                is_sorted_unique(opened.invited) and set(opened.invited) <= set(federation.clients)
            ),
            "invites names that are unsorted, repeated or not on the roster",
        ),
        (lambda: name in opened.invited, f"does not invite {name}"),
        (
            lambda: len(opened.invited) >= thresholds.vote_quorum,
            f"invites {len(opened.invited)} clients, below the quorum of {thresholds.vote_quorum}",
        ),
        (
            lambda: opened.config_hash == federation.config_hash,
            "names a training configuration that is not the charter's",
        ),
        (
            lambda: bool(opened.checkpoint) or memory.checkpoint.size == 0,
            "carries no checkpoint of the log, although one was published before",
        ),
        (
            lambda: memory.completed < federation.charter.rounds,
            f"would be beyond the charter's {federation.charter.rounds} rounds",
        ),
        (
            lambda: opened.adapter_hash == memory.adapter_hash,
            f"starts from adapter {opened.adapter_hash.hex()[:16]}, this site holds "
            f"{memory.adapter_hash.hex()[:16]}; catch up first",
        ),
    ]
    for holds, reason in refusals:
        if not holds():
            raise RoundRefused(f"round {opened.round} {reason}")
