"""Where a scenario is played: the real state machines, on a network that acts can touch.

A :class:`Stage` is a ``Simulation`` that writes down what happens, lets clients die and come back
with nothing but what their journal made durable, and routes every message through the acts of the
round.  Time is virtual and randomness seeded: the same scenario gives the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.client_states import ClientMemory, Idle
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import (
    AdapterComputed,
    ApplySum,
    Deadline,
    Effect,
    Event,
    Note,
    Persist,
    Received,
    RoundEnded,
    Send,
    Train,
    UpdateReady,
)
from fedfm_protocols.errors import ProtocolError, ScenarioError
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import CheckpointOffer, Cohort, StepShares, body_hash
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.scenario.actors import OUTSIDER, Actor, body_of, outsider
from fedfm_protocols.scenario.acts import CoordinatorDied, Interceptor
from fedfm_protocols.scenario.charters import charter_of, update_of
from fedfm_protocols.scenario.federations import COORDINATOR, VALIDATOR, Keys, identity_of
from fedfm_protocols.scenario.form import Scenario
from fedfm_protocols.scenario.late import LateResults
from fedfm_protocols.scenario.log import ScenarioLog
from fedfm_protocols.scenario.observations import (
    Announcing,
    Observer,
    RoundFacts,
    envelope_of,
    journal_value,
)
from fedfm_protocols.scenario.promises import Promises
from fedfm_protocols.scenario.suites import encryption_for, sketches_for
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import (
    Delivery,
    SimulatedClient,
    SimulatedValidator,
    Simulation,
)
from fedfm_protocols.validator_states import Ready, ValidatorMemory

OTHER_ADAPTER = b"\x66" * 32
OfferChange = Callable[[str, CheckpointOffer], CheckpointOffer]


class Stage(Simulation):
    """One run of one scenario; see the module's docstring.

    Acts may look at everything here that the adversary would have: ``actor`` for the keys it
    holds, ``said`` for the messages of the round so far, ``state`` where the coordinator is
    malicious.
    """

    def __init__(
        self, scenario: Scenario, keys: Keys, federation: Federation, world: bytes = b"scenario"
    ) -> None:
        seed = scenario.seed.to_bytes(4, "big")
        super().__init__(
            federation,
            keys.clients,
            keys.coordinator,
            SeededRandom(world + seed),
            self.update_of,
            self._network,
            shared_sets=SharedSets() if scenario.large else None,
            keep_messages=not scenario.large,
            encryption=encryption_for(federation.charter.suite),
            validator_key=keys.validator if federation.robust else None,
            sketching=sketches_for(federation, world + seed),
        )
        self.scenario = scenario
        self.keys = keys
        self.observer = Observer()
        self.promises = Promises(frozenset(scenario.honest))
        self.log = ScenarioLog(keys.log)
        self.second_log: ScenarioLog | None = None
        self.acts: list[tuple[str, Interceptor]] = []
        self.said: list[Envelope] = []
        self.earlier: list[tuple[int, str, str, Envelope]] = []
        self.dead: dict[str, str] = {}
        self.hoard: dict[str, Mapping[str, StepShares]] = {}
        self.old_secrets: dict[str, RoundSecrets] = {}
        self.diverging: dict[str, int] = {}
        self.late = LateResults(
            self.tell_client,
            self._result,
            lambda by, what, until: self.observer.record("late", by=by, what=what, until=until),
        )
        self.offer_changes: list[OfferChange] = []
        self.when_quiet: list[Callable[[], Sequence[Delivery]]] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._durable = {name: c.state.memory for name, c in self.clients.items()}
        self._durable_validator = ValidatorMemory()
        self._handling: Envelope | None = None
        self.refused = Announcing(partial(self._error, COORDINATOR))
        for name, client in self.clients.items():
            client.refused = Announcing(partial(self._error, name))
            client.violations = Announcing(partial(self._error, name))
        if self.validator is not None:
            self.validator.refused = Announcing(partial(self._error, VALIDATOR))

    # ------------------------------------------------------------ what actors have

    def actor(self, name: str) -> Actor:
        """A party under the adversary's control.

        Raises
        ------
        ScenarioError
            if the scenario does not give its key to the adversary.
        """
        if name == OUTSIDER:
            return outsider()
        key = identity_of(self.keys, name)
        if key is None or name not in self.scenario.keys_held:
            raise ScenarioError(
                f"an act signs as {name}, whose key the adversary does not have: list it under "
                "`malicious` (or `stolen_keys`)"
            )
        return Actor(name, key)

    def last(self, message: str, sender: str | None = None) -> Envelope | None:
        """The latest message of a type in this round, by a sender if one is named."""
        for envelope in reversed(self.said):
            if envelope.header.type == message and sender in (None, envelope.header.sender):
                return envelope
        return None

    @property
    def hood(self) -> Neighbourhoods | None:
        """The masking graph of the round that is being played, once it is known."""
        group = getattr(self.state, "group", None)
        hood: Neighbourhoods | None = getattr(group or self.state, "hood", None)
        return hood

    def update_of(self, name: str, number: int, step: int) -> NDArray[np.floating]:
        """A client's update: seeded multiples of the quantisation step unless stated."""
        return update_of(self.scenario, self.federation, name, number, step)

    def charter(self, **changes: Any) -> Federation:
        """The scenario's federation under a charter with other fields."""
        return charter_of(self.scenario, self.keys, **changes)

    def alongside(self, federation: str) -> list[tuple[int, str, str, Envelope]]:
        """Every message of the first round of another federation of the same parties, who use the
        same keys in it: (place of the round, sender, recipient, envelope)."""
        charter = self.charter(federation=federation)
        other = Stage(self.scenario, self.keys, charter, b"alongside")
        other.make_first_key()
        other.begin(other.number_of(1), 1, charter.clients)
        other.run_scripted(other.number_of(1), charter.clients)
        return other.earlier

    # ------------------------------------------------------------ rounds

    def number_of(self, place: int) -> int:
        """The number of the ``place``-th round of the scenario; one more than its place if a round
        that makes the first key came before."""
        return place + 1 if place and self.scenario.makes_key_first else place

    def make_first_key(self) -> None:
        """Run the round that makes the first collective key, if nobody scripted one."""
        if self.scenario.makes_key_first:
            self.begin(1, 0, self.federation.clients, KEYS)
            self.run_scripted(1, self.federation.clients)

    def begin(self, number: int, index: int, invited: tuple[str, ...], kind: str = TRAIN) -> None:
        """Bring back who comes back, and forget what the last round's acts did."""
        for name, resume in list(self.dead.items()):
            if resume == "next-round":
                self.revive(name)
        self.acts.clear()
        self.said.clear()
        self.when_quiet.clear()
        self.offer_changes.clear()
        self.diverging.clear()
        opened = {name: len(client.totals) for name, client in self.clients.items()}
        facts = RoundFacts(number, index, kind, invited, self.adapter_hash, opened_before=opened)
        self.observer.rounds.append(facts)
        self.observer.record("round", index=index, kind=kind, invited=list(invited))

    def revive(self, name: str) -> None:
        """What a crash leaves: what the journal made durable, and nothing of the round."""
        self.dead.pop(name, None)
        if name == VALIDATOR and self.validator is not None:
            self.validator.state = Ready(self._durable_validator)
        else:
            self.clients[name].state = Idle(replace(self._durable[name]))
        self.observer.record("restarted", by=name)

    def holds_key(self, name: str) -> bool:
        """Whether a client holds the collective key in force; so does everybody if there is
        none."""
        if self.key is None:
            return True
        held = self._durable[name].keys.of(self.key.epoch)
        return held is not None and held.key_hash == self.key.key_hash

    def remember(self, name: str, memory: ClientMemory) -> None:
        """A client in no round stores new durable memory (catching up, witnessing)."""
        self.clients[name].state = Idle(memory)
        self._durable[name] = memory

    def inject(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages on the network that no act touches any more."""
        self._queue.extend(d for d in deliveries if d[0] not in self.dead)

    def come_back(self, name: str, resent: Sequence[Delivery]) -> None:
        """Revive a client once what is going on has been dealt with; then resend to it."""

        def back() -> None:
            self.revive(name)
            self.inject(resent)

        self._soon.append(back)

    def tell_later(self, event: Event) -> None:
        """Tell the coordinator something once the present message has been dealt with."""
        self._soon.append(lambda: self._tell_coordinator(event))

    def _drain(self) -> None:
        super()._drain()
        while self._soon:
            self._soon.popleft()()
            super()._drain()

    # ------------------------------------------------------------ the network

    def _network(self, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        self.observer.saw_sent(sender, recipient, envelope)
        if not self.scenario.large:
            self.said.append(envelope)
            self.earlier.append((self.observer.now.index, sender, recipient, envelope))
        deliveries: list[Delivery] = [(recipient, envelope)]
        for label, act in self.acts:
            after: list[Delivery] = []
            for to, passing in deliveries:
                became = list(act(sender, to, passing))
                if len(became) != 1 or became[0][0] != to or became[0][1] is not passing:
                    self.observer.saw_change(label, sender, to, passing, became)
                after += became
            deliveries = after
        for _, passing in deliveries:
            self._note_cohort(passing)
        known = {COORDINATOR, *self.clients, self.federation.validator}
        return [d for d in deliveries if d[0] in known and d[0] not in self.dead]

    def _note_cohort(self, envelope: Envelope) -> None:
        """Remember who is in every cohort that anybody is shown, for the promises."""
        if envelope.header.type != "Cohort":
            return
        try:
            cohort = body_of(envelope, Cohort)
            step = envelope.header.step
            self.observer.now.cohorts.setdefault(body_hash(cohort), (step, cohort.accepted))
        except CodecError:
            return

    def _error(self, by: str, error: ProtocolError) -> None:
        self.observer.saw_error(by, error, self._handling)

    # ------------------------------------------------------------ the coordinator

    def _tell_coordinator(self, event: Event) -> None:
        if isinstance(event, Deadline):
            self.observer.record("deadline", phase=event.phase)
        self._handling = envelope_of(event)
        super()._tell_coordinator(event)
        self._handling = None
        hood = self.hood
        if hood is not None and self.federation.masked and not self.observer.now.threshold:
            facts = self.observer.now
            facts.threshold = hood.threshold
            facts.holders = {name: hood.of(name) for name in hood.everyone}
        if isinstance(event, Deadline) and not isinstance(self.state, Finished):
            for release in list(self.when_quiet):
                self.inject(release())

    # ------------------------------------------------------------ the validator

    def tell_validator(self, event: Event) -> None:
        """Hand one event to the validator; what it refuses is written down."""
        if VALIDATOR in self.dead:
            return
        outer, self._handling = self._handling, envelope_of(event)
        try:
            super().tell_validator(event)
        finally:
            self._handling = outer

    def _carry_out_validator(self, validator: SimulatedValidator, effect: Effect) -> None:
        if VALIDATOR in self.dead:
            return
        if isinstance(effect, Persist):
            self._durable_validator = validator.state.memory
            self.promises.judged(effect)
            self.observer.record(
                "journal", by=VALIDATOR, record=effect.record, value=journal_value(effect)
            )
        super()._carry_out_validator(validator, effect)
        if isinstance(effect, Send) and VALIDATOR not in self.dead:
            self.promises.answered(effect.envelope)

    # ------------------------------------------------------------ clients

    def tell_client(self, name: str, event: Event) -> None:
        """Hand one event to a client; what it refuses or leaves the round for is written down."""
        if name in self.dead:
            return
        outer, self._handling = self._handling, envelope_of(event)
        try:
            super().tell_client(name, event)
        finally:
            self._handling = outer
        if isinstance(event, Received):
            self.late.release(name, event.envelope.header.type)

    def _carry_out_client(self, name: str, client: SimulatedClient, effect: Effect) -> None:
        if name in self.dead:
            return
        match effect:
            case Persist():
                self._durable[name] = client.state.memory
                self.promises.journalled(name, effect)
                self.observer.record(
                    "journal", by=name, record=effect.record, value=journal_value(effect)
                )
            case Send():
                super()._carry_out_client(name, client, effect)
                if name not in self.dead:  # who dies in the act of sending has sent nothing
                    self.observer.saw_own(name, effect.envelope)
                    facts = self.observer.now
                    self.promises.sent(name, facts.number, facts.kind, effect.envelope)
                return
            case Note():
                self.observer.now.notes.append((name, effect.text))
                self.observer.record("note", by=name, text=effect.text)
            case RoundEnded():
                self.observer.record(
                    "ended",
                    by=name,
                    outcome=effect.outcome,
                    reason=effect.reason,
                    adapter=effect.adapter_hash.hex(),
                )
            case Train() if self.late.postpone(name, effect):
                return
            case ApplySum() if self.late.postpone(name, effect):
                client.totals.append(effect.total)
                return
        super()._carry_out_client(name, client, effect)

    def _result(self, name: str, effect: Train | ApplySum) -> UpdateReady | AdapterComputed:
        if isinstance(effect, Train):
            update = self.update_of(name, effect.round, effect.step)
            return UpdateReady(effect.round, effect.step, update)
        adapter_hash = self._apply(self.clients[name], effect.total)
        return AdapterComputed(effect.round, effect.step, adapter_hash)

    def _apply(self, client: SimulatedClient, total: NDArray[np.float64]) -> bytes:
        honest = super()._apply(client, total)
        session = getattr(client.state, "session", None)
        step = self.diverging.get(client.context.site.name, -1)
        return OTHER_ADAPTER if session is not None and session.step == step else honest

    def run_scripted(self, number: int, invited: tuple[str, ...], **opening: Any) -> None:
        """Run one round to its end; the facts are in ``observer.now``."""
        facts = self.observer.now
        try:
            facts.finished = self.run_round(number, invited=invited, kind=facts.kind, **opening)
        except CoordinatorDied:
            self._queue.clear()
            self.observer.record("lost", by=COORDINATOR)
            return
        self.observer.record(
            "finished",
            by=COORDINATOR,
            outcome=facts.finished.outcome,
            reason=facts.finished.reason,
            accepted=list(facts.finished.accepted),
            removed=list(facts.finished.removed),
            adapter=facts.finished.adapter_hash.hex(),
        )
