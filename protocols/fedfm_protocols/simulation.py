"""A whole federation in one process: the real state machines on a network made of a queue.

For scripted tests and benchmarks.  Time is virtual: when nothing is under way any more, the
coordinator's current deadline passes.  An ``intercept`` function sees every message and may drop,
change, delay (keep and return later) or add messages, which is all that a network or a malicious
party can do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.envelope import CheckpointSeen, Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import hash_tensors
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.checks import open_signed_set
from fedfm_protocols.client import client_step, leave_round
from fedfm_protocols.client_session import ClientContext
from fedfm_protocols.client_states import ClientMemory, ClientSite, ClientState, Idle
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator import RoundOpening, coordinator_step, open_round
from fedfm_protocols.coordinator_round import CollectiveKey
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorSite,
    CoordinatorState,
    Finished,
    phase_of,
)
from fedfm_protocols.effects import (
    AdapterComputed,
    ApplySum,
    ComputeScores,
    Deadline,
    Effect,
    Event,
    JudgeScores,
    Note,
    Persist,
    Received,
    RenewKey,
    RoundEnded,
    ScoresComputed,
    ScoresJudged,
    Send,
    StoreScores,
    Train,
    UpdateReady,
    VerdictSeen,
)
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import DivergenceError, MessageRefused, ProtocolError, RoundViolation
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import type_name
from fedfm_protocols.robust_messages import SketchEvaluationKeys, SketchKey
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.sketch_keys import SketchEpoch, read_sketch_epoch
from fedfm_protocols.sketching import Sketching
from fedfm_protocols.validator import key_due, validator_step
from fedfm_protocols.validator_states import (
    Ready,
    ValidatorContext,
    ValidatorMemory,
    ValidatorSite,
    ValidatorState,
)
from fedfm_protocols.witness import NOTHING_SEEN

Delivery = tuple[str, Envelope]
Intercept = Callable[[str, str, Envelope], Sequence[Delivery]]
SKETCH_KEYS = frozenset({type_name(SketchKey), type_name(SketchEvaluationKeys)})


def deliver(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
    """The honest network: everything arrives once, unchanged, in order."""
    del sender
    return ((recipient, envelope),)


@dataclass
class SimulatedValidator:
    """The validator of a robust federation with everything that happened to it.

    ``refused`` are requests that got no answer, ``stored`` the openings of its commitments.

    Source: protocols/README.md, section "The validator".
    """

    context: ValidatorContext
    state: ValidatorState
    refused: list[ProtocolError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    journal: list[Persist] = field(default_factory=list)
    stored: list[StoreScores] = field(default_factory=list)
    sent: list[Envelope] = field(default_factory=list)


@dataclass
class SimulatedClient:
    """One client with everything that happened to it.

    ``refused`` are messages it dropped, ``violations`` why it left a round, ``journal`` what it
    persisted, ``totals`` the sums it was given to apply, ``verdicts`` what it was told of those of
    the validator, ``sent`` its messages.  ``cpu_s`` are its
    processor seconds, ``spared_s`` those that it would have spent on signatures which were
    verified for another client already (:class:`~fedfm_protocols.shared_sets.SharedSets`).

    Source: protocols/README.md, section "A round".
    """

    context: ClientContext
    state: ClientState
    refused: list[ProtocolError] = field(default_factory=list)
    violations: list[ProtocolError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    journal: list[Persist] = field(default_factory=list)
    totals: list[NDArray[np.float64]] = field(default_factory=list)
    outcomes: list[RoundEnded] = field(default_factory=list)
    verdicts: list[VerdictSeen] = field(default_factory=list)
    sent: list[Envelope] = field(default_factory=list)
    cpu_s: float = 0.0
    spared_s: float = 0.0


def adapter_of(state: ClientState) -> bytes:
    """Hash of the adapter that a client trains on now: after the last step that it finished."""
    if not isinstance(state, Idle) and state.session.before is not None:
        return state.session.before.adapter_hash
    return state.memory.adapter_hash


def next_adapter(before: bytes, total: NDArray[np.float64]) -> bytes:
    """The hash of a stand-in for an adapter: of the one before and what is added to it."""
    return hash_tensors({"before": np.frombuffer(before, np.uint8), "total": total})


class Simulation:
    """Clients and coordinator of one federation.

    ``updates`` gives every client's update (flat float array of the charter's number of values) in
    a round and step;
    ``intercept`` is the network; ``encryption`` is needed in the suites that encrypt,
    ``validator_key`` and ``sketching`` in robust federations.  The new
    adapter's hash is the hash of old hash and sum, so that clients agree on it exactly if they
    were given the same sum.

    For hundreds of clients: with ``shared_sets`` each distinct signed set is verified once for all
    of them; without ``keep_messages`` what is sent and received is not kept
    (``SimulatedClient.sent`` and ``coordinator_received`` stay empty).

    Source: protocols/README.md, section "A round".
    """

    def __init__(
        self,
        federation: Federation,
        client_keys: Mapping[str, IdentityKey],
        coordinator_key: IdentityKey,
        random: RandomSource,
        updates: Callable[[str, int, int], NDArray[np.floating]],
        intercept: Intercept = deliver,
        *,
        shared_sets: SharedSets | None = None,
        keep_messages: bool = True,
        encryption: Encryption | None = None,
        validator_key: IdentityKey | None = None,
        sketching: Sketching | None = None,
    ) -> None:
        self.federation = federation
        self.updates = updates
        self._keep_messages = keep_messages
        self.intercept = intercept
        self.encryption = encryption
        self.coordinator = CoordinatorContext(
            CoordinatorSite(coordinator_key, federation), random, encryption, sketching
        )
        self.sketching = sketching
        self.validator: SimulatedValidator | None = None
        if validator_key is not None and sketching is not None and federation.robust:
            site = ValidatorSite(federation.validator, validator_key, federation)
            self.validator = SimulatedValidator(
                ValidatorContext(site, random, sketching), Ready(ValidatorMemory())
            )
        self.sketch: SketchEpoch | None = None
        self._sketch_key: Envelope | None = None
        adapter = bytes.fromhex(federation.charter.initial_adapter)
        memory = ClientMemory(0, 0, 0, adapter, NOTHING_SEEN)
        self._shared_sets = shared_sets
        open_set = open_signed_set if shared_sets is None else shared_sets
        self.clients = {
            name: SimulatedClient(
                ClientContext(
                    ClientSite(name, key, federation),
                    random,
                    encryption,
                    open_set=open_set,
                    sketching=sketching,
                ),
                Idle(memory),
            )
            for name, key in client_keys.items()
        }
        self.adapter_hash = adapter
        self.key: CollectiveKey | None = None
        self._last_epoch = 0
        self.refused: list[ProtocolError] = []
        self.coordinator_cpu_s = 0.0
        self.coordinator_received: list[Envelope] = []
        self.state: CoordinatorState | None = None
        self._queue: deque[Delivery] = deque()
        self._last_total: NDArray[np.float64] | None = None

    def run_round(
        self,
        number: int,
        *,
        invited: tuple[str, ...] | None = None,
        kind: str = TRAIN,
        checkpoint: CheckpointSeen = NOTHING_SEEN,
        note: bytes = b"",
        consistency: tuple[bytes, ...] = (),
    ) -> Finished:
        """Run one round to its end and return how it ended.

        One of kind ``keys`` makes the next epoch's key; the others use the last key made.
        """
        if kind != KEYS:
            self.renew_sketch_key()
        opening = RoundOpening(
            round=number,
            kind=kind,
            invited=invited or self.federation.clients,
            adapter_hash=self.adapter_hash,
            checkpoint=checkpoint,
            checkpoint_note=note,
            consistency=consistency,
            key_epoch=self._epoch(kind),
            key=None if kind == KEYS else self.key,
            sketch=None if kind == KEYS else self.sketch,
        )
        self._last_epoch = max(self._last_epoch, opening.key_epoch)
        started = time.process_time()
        opened = open_round(self.coordinator, opening)
        self.coordinator_cpu_s += time.process_time() - started
        self.state = opened.state
        self._carry_out_coordinator(opened.effects)
        while True:
            self._drain()
            if isinstance(self.state, Finished):
                self.adapter_hash = self.state.adapter_hash
                self.key = self.state.key or self.key
                return self.state
            self._tell_coordinator(Deadline(phase_of(self.state)))

    def _epoch(self, kind: str) -> int:
        if kind == KEYS:
            return self._last_epoch + 1
        return 0 if self.key is None else self.key.epoch

    def _drain(self) -> None:
        while self._queue:
            recipient, envelope = self._queue.popleft()
            if recipient in self.clients:
                self.tell_client(recipient, Received(envelope))
            elif self.validator is not None and recipient == self.federation.validator:
                self.tell_validator(Received(envelope))
            elif envelope.header.type in SKETCH_KEYS:
                self._take_sketch_keys(envelope)
            else:
                if self._keep_messages:
                    self.coordinator_received.append(envelope)
                self._tell_coordinator(Received(envelope))

    def _send(self, sender: str, send: Send) -> None:
        self._queue.extend(self.intercept(sender, send.recipient, send.envelope))

    def _tell_coordinator(self, event: Event) -> None:
        if self.state is None:
            raise RuntimeError("no round is open")
        started = time.process_time()
        try:
            transition = coordinator_step(self.coordinator, self.state, event)
        except MessageRefused as error:
            self.refused.append(error)
            return
        finally:
            self.coordinator_cpu_s += time.process_time() - started
        self.state = transition.state
        self._carry_out_coordinator(transition.effects)

    def _carry_out_coordinator(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(self.federation.coordinator, effect)
            elif isinstance(effect, ComputeScores):
                self._tell_coordinator(self._compute(effect))

    def _compute(self, effect: ComputeScores) -> ScoresComputed:
        try:
            scores = self.coordinator.need_sketching().scores(
                effect.sketches, effect.public_key, effect.evaluation
            )
        except CryptoError as error:
            return ScoresComputed(effect.round, effect.step, b"", str(error))
        return ScoresComputed(effect.round, effect.step, scores)

    # ------------------------------------------------------------ the validator

    def renew_sketch_key(self) -> None:
        """Have the validator make its next key, where the round to come needs one."""
        validator = self.validator
        if validator is not None and key_due(validator.context, validator.state.memory):
            self.tell_validator(RenewKey())
            self._drain()

    def _take_sketch_keys(self, envelope: Envelope) -> None:
        """The coordinator's part outside of rounds: check an epoch's keys, pass the public one
        on."""
        if envelope.header.type == type_name(SketchKey):
            self._sketch_key = envelope
            return
        if self._sketch_key is None:
            return
        sketching = self.coordinator.need_sketching()
        try:
            self.sketch = read_sketch_epoch(
                self.federation, sketching, self._sketch_key, envelope, self.sketch
            )
        except (MessageRefused, RoundViolation) as error:
            self.refused.append(error)
            return
        for name in self.clients:
            self._send(self.federation.coordinator, Send(name, self.sketch.envelope))

    def tell_validator(self, event: Event) -> None:
        """Hand one event to the validator and carry out what it asks for."""
        validator = self.validator
        if validator is None:
            raise RuntimeError("this federation has no validator")
        try:
            transition = validator_step(validator.context, validator.state, event)
        except (MessageRefused, RoundViolation) as error:
            validator.refused.append(error)
            return
        validator.state = transition.state
        for effect in transition.effects:
            self._carry_out_validator(validator, effect)

    def _carry_out_validator(self, validator: SimulatedValidator, effect: Effect) -> None:
        match effect:
            case Persist():
                validator.journal.append(effect)
            case Send():
                if self._keep_messages:
                    validator.sent.append(effect.envelope)
                self._send(self.federation.validator, effect)
            case Note(text):
                validator.notes.append(text)
            case StoreScores():
                validator.stored.append(effect)
            case JudgeScores():
                self.tell_validator(self._judge(effect))

    def _judge(self, effect: JudgeScores) -> ScoresJudged:
        if self.sketching is None:
            raise RuntimeError("this federation has no sketching")
        try:
            judgement = self.sketching.judge(effect.secret, effect.scores, effect.question)
        except CryptoError as error:
            return ScoresJudged(effect.round, effect.step, None, str(error))
        return ScoresJudged(effect.round, effect.step, judgement)

    # ------------------------------------------------------------ clients

    def tell_client(self, name: str, event: Event) -> None:
        """Hand one event to a client and carry out what it asks for."""
        client = self.clients[name]
        started = time.process_time()
        try:
            transition = client_step(client.context, client.state, event)
        except MessageRefused as error:
            client.refused.append(error)
            return
        except (RoundViolation, DivergenceError) as error:
            client.violations.append(error)
            transition = leave_round(client.state, str(error))
        finally:
            client.cpu_s += time.process_time() - started
            if self._shared_sets is not None:
                client.spared_s += self._shared_sets.take_spared()
        client.state = transition.state
        for effect in transition.effects:
            self._carry_out_client(name, client, effect)

    def _carry_out_client(self, name: str, client: SimulatedClient, effect: Effect) -> None:
        match effect:
            case Persist():
                client.journal.append(effect)
            case Send():
                if self._keep_messages:
                    client.sent.append(effect.envelope)
                self._send(name, effect)
            case Note(text):
                client.notes.append(text)
            case RoundEnded():
                client.outcomes.append(effect)
            case VerdictSeen():
                client.verdicts.append(effect)
            case Train(number, step):
                update = self.updates(name, number, step)
                self.tell_client(name, UpdateReady(number, step, update))
            case ApplySum(number, step, _, total):
                total = self._same_array(total)
                client.totals.append(total)
                adapter_hash = self._apply(client, total)
                self.tell_client(name, AdapterComputed(number, step, adapter_hash))

    def _apply(self, client: SimulatedClient, total: NDArray[np.float64]) -> bytes:
        return next_adapter(adapter_of(client.state), total)

    def _same_array(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """Equal sums are one array in memory, however many clients open them."""
        if self._last_total is None or not np.array_equal(self._last_total, total):
            self._last_total = total
        return self._last_total

    def restart_client(self, name: str) -> None:
        """What a crash leaves: the durable memory, and nothing of the round."""
        client = self.clients[name]
        memory = client.state.memory
        client.state = Idle(replace(memory))
