"""Client, steps 0 and 1: whether to join a round, and the keys it offers for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.checks import check_place, is_sorted_unique
from fedfm_protocols.client_session import ClientContext, end_round, say, taken
from fedfm_protocols.client_states import ClientMemory, ClientState, Idle, Offered, Session
from fedfm_protocols.context import (
    KEYS,
    NO_HASH,
    TRAIN,
    WATERMARK,
    RoundIdentity,
    judged_keys_hash,
)
from fedfm_protocols.effects import Effect, Persist, Transition
from fedfm_protocols.errors import EquivocationError, ReplayedMessage, RoundRefused
from fedfm_protocols.federation import Federation
from fedfm_protocols.log_keys import log_in_force
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import RoundOpen, read_body
from fedfm_protocols.offers import make_offer
from fedfm_protocols.split_view import check_echo
from fedfm_protocols.witness import extend_checkpoint, log_note

ROUND_KINDS = (TRAIN, KEYS)


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
    if identity.kind == TRAIN:  # marks take nothing from a budget
        objection = context.objection()
        if objection:
            raise RoundRefused(f"round {opened.round} is not joined: {objection}")
    head, note = memory.checkpoint, memory.note
    if opened.checkpoint:
        log = log_in_force(federation, memory.log_changes)
        head = extend_checkpoint(head, opened.checkpoint, opened.consistency, log, own=note)
        note = log_note(opened.checkpoint, log)
    check_echo(head, note, envelope)
    memory = replace(memory, last_opened=opened.round, checkpoint=head, note=note)
    secrets = _draw(context, identity, context0)
    offer = make_offer(federation, identity, name, secrets, context.encryption)
    keys = None if identity.makes_keys else memory.keys.of(opened.key_epoch)
    key_hash = NO_HASH if keys is None else keys.key_hash
    sketch_key = None if identity.makes_keys else memory.sketch_key
    if sketch_key is not None:
        key_hash = judged_keys_hash(key_hash, sketch_key.key_hash)
    begun = Session(
        identity,
        context0,
        context0,
        key_hash=key_hash,
        step=0,
        sent=0,
        taken={},
        received=0,
        head=head,
        note=note,
        sketch_key=sketch_key,
    )
    session = taken(begun, envelope)
    session, send = say(context, memory, session, offer)
    effects: list[Effect] = []
    if not isinstance(state, Idle):
        reason = f"round {opened.round} was opened"
        effects += end_round(state, "aborted", reason).effects
    effects += [Persist(opened.round, 0, "opened", context0), send]
    return Transition(Offered(memory, session, secrets, send.envelope.encode()), tuple(effects))


def _draw(context: ClientContext, identity: RoundIdentity, context0: bytes) -> RoundSecrets:
    contribution = None
    if identity.makes_keys:
        contribution = context.need_encryption().contribute(context0, context.random)
    return RoundSecrets.draw(identity.steps, context.random, contribution)


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
        (
            lambda: opened.kind in ROUND_KINDS or (federation.marked and opened.kind == WATERMARK),
            f"is of unknown kind {opened.kind!r}",
        ),
        (
            lambda: opened.steps == federation.steps_of(opened.kind),
            f"has {opened.steps} steps, the charter says {federation.steps_of(opened.kind)}",
        ),
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
        *(
            _rules_of_key_round(federation, memory, opened)
            if opened.kind == KEYS
            else _rules_of_sum(federation, memory, opened)
        ),
    ]
    for holds, reason in refusals:
        if not holds():
            raise RoundRefused(f"round {opened.round} {reason}")


def _rules_of_sum(
    federation: Federation, memory: ClientMemory, opened: RoundOpen
) -> list[tuple[Callable[[], bool], str]]:
    """A round that sums updates: the right key, the right adapter, and rounds left."""
    epoch = opened.key_epoch
    latest = memory.keys.latest
    return [
        (
            lambda: epoch == 0 or federation.encrypted,
            f"names key epoch {epoch}, suite {federation.charter.suite} has none",
        ),
        (
            lambda: memory.keys.of(epoch) is not None or not federation.encrypted,
            f"uses the key of epoch {epoch}, this site holds "
            f"{'none' if latest is None else f'that of epoch {latest.epoch}'}; it takes part "
            "again after the next key generation",
        ),
        (
            lambda: memory.sketch_key is not None or not federation.robust,
            "needs the validator's sketch key, which this site has not been given yet",
        ),
        _rule_of_place(federation, memory, opened),
        (
            lambda: opened.adapter_hash == memory.adapter_hash,
            f"starts from adapter {opened.adapter_hash.hex()[:16]}, this site holds "
            f"{memory.adapter_hash.hex()[:16]}; catch up first",
        ),
    ]


def _rule_of_place(
    federation: Federation, memory: ClientMemory, opened: RoundOpen
) -> tuple[Callable[[], bool], str]:
    """The charter's rounds of training, and the one of marks right after them."""
    agreed = federation.charter.rounds
    if opened.kind == WATERMARK:
        return (
            lambda: memory.completed == agreed,
            f"writes marks, which is done once, after {agreed} rounds of training; "
            f"{memory.completed} rounds are completed",
        )
    return lambda: memory.completed < agreed, f"would be beyond the charter's {agreed} rounds"


def _rules_of_key_round(
    federation: Federation, memory: ClientMemory, opened: RoundOpen
) -> list[tuple[Callable[[], bool], str]]:
    """A round that makes a key: a suite that needs one, and an epoch never seen."""
    known = memory.keys.latest
    return [
        (
            lambda: federation.encrypted,
            f"makes a key, for which suite {federation.charter.suite} has no use",
        ),
        (
            lambda: opened.key_epoch > (0 if known is None else known.epoch),
            f"makes the key of epoch {opened.key_epoch}, which is not above the last one",
        ),
    ]
