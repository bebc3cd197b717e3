"""Playing a scenario from its first round to its verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.client_states import Idle
from fedfm_protocols.coordinator_round import CompletedRound
from fedfm_protocols.errors import (
    CharterError,
    PolicyViolation,
    ProtocolError,
    ScenarioError,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import CatchUp, CatchUpRound, RoundOpen, read_body
from fedfm_protocols.policy import SitePolicy
from fedfm_protocols.scenario.acts import ActForm, Interceptor
from fedfm_protocols.scenario.charters import charter_of
from fedfm_protocols.scenario.federations import make_keys
from fedfm_protocols.scenario.form import EVERYBODY, RoundForm, Scenario
from fedfm_protocols.scenario.stage import Stage
from fedfm_protocols.scenario.transcript import transcript_of
from fedfm_protocols.scenario.verdict import Verdict, judge_round
from fedfm_protocols.simulation import Delivery, next_adapter
from fedfm_protocols.witness import review_leaf, take_offer


@dataclass(frozen=True)
class Result:
    """What a run leaves: the verdict, and the transcript as canonical JSON without secrets.
    ``stage`` is there for a closer look from Python, secrets included."""

    scenario: Scenario
    verdict: Verdict
    transcript: bytes = field(repr=False)
    stage: Stage | None = field(default=None, repr=False)


def run_scenario(scenario: Scenario) -> Result:
    """Play a scenario.

    Raises
    ------
    ScenarioError
        if an act asks for what its actor cannot do.
    """
    verdict = Verdict()
    keys = make_keys(scenario.federation.clients, scenario.seed)
    try:
        federation = charter_of(scenario, keys)
        _check_policy(scenario, federation)
    except (CharterError, PolicyViolation) as error:
        found = f"{type(error).__name__}: {error}"
        expected = scenario.refused_charter
        verdict.add(0, "charter", expected, found, bool(expected) and expected in found)
        return Result(scenario, verdict, transcript_of(scenario, [], verdict))
    if scenario.refused_charter:
        verdict.add(0, "charter", scenario.refused_charter, "accepted", False)
    stage = Stage(scenario, keys, federation)
    records: list[CompletedRound] = []
    if scenario.makes_key_first:
        stage.make_first_key()
        _judge_facts(stage, RoundForm(kind="keys"), verdict)
    for index, form in enumerate(scenario.rounds, 1):
        _play_round(stage, index, form, records, verdict)
    verdict.add(0, "promises broken", [], list(stage.promises.broken))
    events = stage.observer.events
    return Result(scenario, verdict, transcript_of(scenario, events, verdict), stage)


def _check_policy(scenario: Scenario, federation: Federation) -> None:
    if scenario.policy is None:
        return
    lines = {k: v for k, v in scenario.policy.model_dump().items() if v is not None}
    lines["suites"] = tuple(lines.get("suites", (scenario.federation.suite,)))
    SitePolicy(**lines).check_charter(federation.charter)


def _play_round(
    stage: Stage, index: int, form: RoundForm, records: list[CompletedRound], verdict: Verdict
) -> None:
    number = stage.number_of(index if form.number is None else form.number)
    invited = tuple(form.invited) if form.invited is not None else stage.federation.clients
    stage.begin(number, index, invited, form.kind)
    for name in form.restart:
        stage.revive(name)
    for name in _behind(stage, form.catch_up):
        _catch_up(stage, name, records)
        if stage.scenario.log and stage.log.leaves:
            _offer_checkpoint(stage, name)
    stage.acts += [start_act(act, stage) for act in form.acts]
    opening: dict[str, Any] = {}
    if stage.scenario.log and stage.log.leaves:
        opening = {
            "checkpoint": stage.log.seen(),
            "note": stage.log.note(),
            "consistency": stage.log.consistency(stage.log.published),
        }
    stage.run_scripted(number, invited, **opening)
    facts = stage.observer.now
    if facts.finished is not None and facts.finished.record is not None:
        records.append(facts.finished.record)
    if stage.scenario.log and facts.finished is not None:
        _witness(stage)
    _judge_facts(stage, form, verdict)


def _judge_facts(stage: Stage, form: RoundForm, verdict: Verdict) -> None:
    facts = stage.observer.now
    facts.behind = tuple(
        name
        for name in stage.scenario.honest
        if stage.clients[name].state.memory.adapter_hash != stage.adapter_hash
    )
    facts.keyless = tuple(name for name in stage.scenario.honest if not stage.holds_key(name))
    stage.promises.check_round(facts, stage.scenario.malicious)
    judge_round(stage, form, facts, verdict)


def start_act(act: Any, stage: Stage) -> tuple[str, Any]:
    """An act of a round as (label, function on deliveries)."""
    if isinstance(act, ActForm):
        return act.act, _in_its_step(act, act.start(stage))
    if not callable(act):
        raise ScenarioError(f"{act!r} is no act")
    return _label(act), lambda sender, to, envelope: act(stage, sender, to, envelope)


def _in_its_step(act: ActForm, tell: Interceptor) -> Interceptor:
    """The act, shown what is said in its step of a session."""
    if act.sees_all:
        return tell

    def due(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        return tell(sender, recipient, envelope) if act.due(envelope) else ((recipient, envelope),)

    return due


def _label(act: Callable[..., Any]) -> str:
    return getattr(act, "__name__", type(act).__name__)


def _behind(stage: Stage, names: Sequence[str]) -> list[str]:
    """Who catches up: those named; `everybody` is whoever is there, behind, and has the keys."""
    listed = [name for name in names if name != EVERYBODY]
    if EVERYBODY not in names:
        return listed
    return listed + [
        name
        for name, client in stage.clients.items()
        if name not in stage.dead
        and name not in listed
        and client.state.memory.adapter_hash != stage.adapter_hash
        and stage.holds_key(name)
    ]


def _catch_up(stage: Stage, name: str, records: list[CompletedRound]) -> None:
    """A client that was away repeats the completed rounds that it missed, checking each."""
    client = stage.clients[name]
    memory = client.state.memory
    missing = [
        CatchUpRound(r.opened, r.roster_hash, r.key_hash, r.aggregates, r.acks)
        for r in records
        if read_body(Envelope.decode(r.opened), RoundOpen).round > memory.last_applied
    ]
    for missed in verify_catch_up(
        stage.federation,
        CatchUp(tuple(missing)),
        last_applied=memory.last_applied,
        adapter_hash=memory.adapter_hash,
        keys=memory.keys,
        encryption=stage.encryption,
    ):
        computed = memory.adapter_hash
        for step in missed.sums:
            computed = next_adapter(computed, step.total)
        if computed != missed.adapter_after:
            raise ScenarioError(f"{name} repeated round {missed.round} with another result")
        memory = replace(
            memory,
            last_opened=max(memory.last_opened, missed.round),
            last_applied=missed.round,
            completed=memory.completed + 1,
            adapter_hash=computed,
        )
        stage.remember(name, memory)
        stage.observer.record("caught up", by=name, missed=missed.round, adapter=computed.hex())


def _witness(stage: Stage) -> None:
    """Step 15: the round's statement is logged and offered to every client that is there."""
    facts = stage.observer.now
    if facts.finished is None:
        return
    stage.log.append(facts.number, facts.finished.outcome, facts.finished.adapter_hash)
    for name, client in stage.clients.items():
        if name not in stage.dead and isinstance(client.state, Idle):
            _offer_checkpoint(stage, name)
    sizes = [
        c.state.memory.checkpoint.size for n, c in stage.clients.items() if n not in stage.dead
    ]
    stage.log.published = min(sizes, default=0)


def _offer_checkpoint(stage: Stage, name: str) -> None:
    """What a client is offered after a round, or when it is back: durable before it cosigns."""
    memory = stage.clients[name].state.memory
    offer = stage.log.offer(memory.checkpoint.size)
    for change in stage.offer_changes:
        offer = change(name, offer)
    try:
        extended = take_offer(stage.federation, memory, offer)
        review_leaf(extended.checkpoint, offer)
    except ProtocolError as error:
        stage.observer.saw_error(name, error, None)
        return
    stage.remember(name, extended)
    seen = extended.checkpoint
    stage.observer.record("cosigned", by=name, size=seen.size, root=seen.root.hex())
