"""Steps 0, 2 and 15: the log's key keeps two histories, one for some clients, one for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.context import NO_HASH, context1
from fedfm_protocols.messages import (
    CheckpointOffer,
    KeyRoster,
    RoundOpen,
    body_hash,
)
from fedfm_protocols.scenario.actors import body_of
from fedfm_protocols.scenario.acts import ActForm, Interceptor, known_act
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.scenario.log import ScenarioLog
from fedfm_protocols.simulation import Delivery

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

LOG = "log"


@known_act("show-two-histories")
class ShowTwoHistories(ActForm):
    """From this round's checkpoint on `to` are shown a second history, signed by the same key; in
    later rounds the key roster holds everybody's offers, unless `apart`."""

    role: ClassVar[str] = "malicious coordinator with the log's key"
    to: list[str]
    apart: bool = Field(default=False)

    @property
    def about(self) -> str:
        """The message that first tells the histories apart in a round."""
        return "RoundOpen"

    def signers(self) -> frozenset[str]:
        """The coordinator, and the log."""
        return frozenset({COORDINATOR, LOG})

    def mentions(self) -> frozenset[str]:
        """Who sees the second history."""
        return frozenset(self.to)

    def start(self, stage: Stage) -> Interceptor:
        """Keep the second history beside the first, and show each to its group."""
        speaker, aside = stage.actor(COORDINATOR), frozenset(self.to)
        fork = second_history(stage)

        def offer(name: str, honest: CheckpointOffer) -> CheckpointOffer:
            while len(fork.leaves) < len(stage.log.leaves):
                number = len(fork.leaves)
                fork.leaves.append(canonical_encode({"round": number, "outcome": "another"}))
            return fork.offer(len(fork.leaves) - 1) if name in aside else honest

        def tell(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if sender != COORDINATOR or not fork.leaves:
                return ((recipient, envelope),)
            if envelope.header.type == "KeyRoster" and not self.apart:
                envelope = _everybody(stage, envelope)
            if recipient in aside:
                envelope = speaker.forge(envelope, _body(envelope, fork), **_echo(fork))
            return ((recipient, envelope),)

        stage.offer_changes.append(offer)
        return tell


def second_history(stage: Stage) -> ScenarioLog:
    """The log that some are shown instead; the same one in every round of a run."""
    if stage.second_log is None:
        stage.second_log = ScenarioLog(stage.keys.log, list(stage.log.leaves))
    return stage.second_log


def _everybody(stage: Stage, envelope: Envelope) -> Envelope:
    """The key roster with the offers of both groups, under the context that it leads to."""
    offers = {e.header.sender: e for e in stage.said if e.header.type == "KeyOffer"}
    roster = KeyRoster(tuple(offers[name].encode() for name in sorted(offers)))
    context0 = next(iter(offers.values())).header.context
    key = None if stage.state is None else stage.state.round.key
    fixed = context1(context0, body_hash(roster), NO_HASH if key is None else key.key_hash)
    return stage.actor(COORDINATOR).forge(envelope, roster, context=fixed)


def _echo(log: ScenarioLog) -> dict[str, object]:
    """Header fields of whoever has seen the head of ``log``."""
    head = log.seen()
    return {"checkpoint_size": head.size, "checkpoint_root": head.root}


def _body(envelope: Envelope, log: ScenarioLog) -> object:
    """The same body, an opening with the checkpoint of ``log``."""
    if envelope.header.type != "RoundOpen":
        return envelope.body
    return replace(body_of(envelope, RoundOpen), checkpoint=log.note(), consistency=())
