"""A malicious coordinator and malicious clients on a sparse masking graph: nonces, rings, arcs.

Whoever opens nonces late, or publishes them, would like to choose the ring; whoever knows the ring
would like to choose who vanishes.  Each test names the lie and the named error that answers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client import client_step
from fedfm_protocols.client_states import ClientState, Committed, Opened
from fedfm_protocols.context import dealers_hash
from fedfm_protocols.coordinator_states import Voting
from fedfm_protocols.effects import Received
from fedfm_protocols.errors import (
    BelowThreshold,
    EquivocationError,
    MalformedMessage,
    ProtocolError,
    RoundRefused,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.messages import (
    Cohort,
    GraphNonce,
    GraphNonces,
    KeyOffer,
    ShareBundle,
    ShareDelivery,
    Unmask,
    UploadSet,
)
from fedfm_protocols.simulation import Delivery
from tests.protocols.federations import make_keys
from tests.protocols.scripted import (
    START,
    RecordingSimulation,
    all_idle_at,
    body_of,
    exact_simulation,
    forge,
    forging,
    key_of,
    revealed,
)

LIMITS = {"colluding": 5, "dropouts": 5}
NAMES = tuple(sorted(make_keys(70).clients))
MALLORY, VICTIM = "client-02", "client-03"


@cache
def _recorded() -> RecordingSimulation:
    simulation = exact_simulation(70, limits=LIMITS)
    simulation.run_round(1)
    return simulation


def _moment(kind: type[ClientState], name: str = VICTIM) -> tuple[Any, Envelope]:
    """A client's state in the recorded round, and the message that it took next."""
    for client, state, event in _recorded().client_tape:
        if client == name and isinstance(state, kind) and isinstance(event, Received):
            return state, event.envelope
    raise LookupError(kind.__name__)


def _refusal(state: Any, envelope: Envelope, body: object, name: str = VICTIM) -> ProtocolError:
    """How a client answers the coordinator's message with another body, properly signed."""
    simulation = _recorded()
    forged = forge(simulation.coordinator.site.key, envelope, body)
    before = repr(state)
    with pytest.raises(ProtocolError) as caught:
        client_step(simulation.clients[name].context, state, Received(forged))
    assert repr(state) == before
    return caught.value


# ---------------------------------------------------------------- a client's own nonce


def test_a_wrong_nonce_is_refused_and_counts_as_withheld() -> None:
    simulation = exact_simulation(70, limits=LIMITS)
    forging(simulation, MALLORY, "GraphNonce", lambda _: GraphNonce(b"\x07" * 32))
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert finished.accepted == tuple(name for name in NAMES if name != MALLORY)
    error = simulation.refused[0]
    assert isinstance(error, MalformedMessage)
    assert str(error) == f"{MALLORY} opened another nonce than it committed to"


def test_a_nonce_of_another_client_opens_nothing() -> None:
    """Commitments name their owner, so copying commitment and nonce gains nothing."""
    simulation = exact_simulation(70, limits=LIMITS)
    copied: list[KeyOffer] = []

    def copying(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        key, kind = key_of(simulation, MALLORY), envelope.header.type
        if sender == "client-01" and kind == "KeyOffer":
            copied.append(body_of(envelope, KeyOffer))
        if sender == MALLORY and kind == "KeyOffer":
            offer = replace(
                body_of(envelope, KeyOffer), graph_commitment=copied[0].graph_commitment
            )
            return ((recipient, forge(key, envelope, offer)),)
        if sender == "client-01" and kind == "GraphNonce":
            again = forge(key, envelope, envelope.body, sender=MALLORY)
            return ((recipient, envelope), (recipient, again))
        return ((recipient, envelope),)

    simulation.intercept = copying
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert MALLORY not in finished.accepted
    assert str(simulation.refused[0]) == f"{MALLORY} opened another nonce than it committed to"


# ---------------------------------------------------------------- the published set


def _without(*names: str) -> Callable[[GraphNonces], GraphNonces]:
    def change(published: GraphNonces) -> GraphNonces:
        kept = [e for e in published.nonces if Envelope.decode(e).header.sender not in names]
        return GraphNonces(tuple(kept))

    return change


def _altered(published: GraphNonces) -> GraphNonces:
    """Another nonce of MALLORY's, without MALLORY's signature."""
    members = [Envelope.decode(encoded) for encoded in published.nonces]
    changed = [
        replace(e, body=b"\x07" * 32).encode() if e.header.sender == MALLORY else e.encode()
        for e in members
    ]
    return GraphNonces(tuple(changed))


def _signed_again(published: GraphNonces) -> GraphNonces:
    """Another nonce than committed to, signed by MALLORY, who colludes."""
    members = [Envelope.decode(encoded) for encoded in published.nonces]
    key = key_of(_recorded(), MALLORY)
    changed = [
        forge(key, e, GraphNonce(b"\x07" * 32)).encode()
        if e.header.sender == MALLORY
        else e.encode()
        for e in members
    ]
    return GraphNonces(tuple(changed))


def _other_context(published: GraphNonces) -> GraphNonces:
    members = [Envelope.decode(encoded) for encoded in published.nonces]
    key = key_of(_recorded(), MALLORY)
    changed = [
        (forge(key, e, context=bytes(32)) if e.header.sender == MALLORY else e).encode()
        for e in members
    ]
    return GraphNonces(tuple(changed))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (_without(VICTIM), RoundRefused, "left out"),
        (_without(*NAMES[10:15]), BelowThreshold, "5 clients did not open their nonces, at most 4"),
        (_without(*NAMES[10:40]), BelowThreshold, "30 clients did not open"),
        (lambda g: GraphNonces(()), RoundRefused, "left out"),
        (lambda g: GraphNonces((g.nonces[0], *g.nonces)), MalformedMessage, "each sender once"),
        (lambda g: GraphNonces(g.nonces[::-1]), MalformedMessage, "must be sorted"),
        (_altered, UnknownSender, "not signed by the key"),
        (_signed_again, EquivocationError, f"{MALLORY} opened another nonce than it committed"),
        (_other_context, WrongContext, "signed for context"),
    ],
    ids=[
        "own-left-out",
        "five-left-out",
        "thirty-left-out",
        "empty",
        "doubled",
        "reversed",
        "altered",
        "signed-again",
        "other-context",
    ],
)
def test_a_nonce_set_that_lies(
    change: Callable[[GraphNonces], GraphNonces], kind: type[ProtocolError], text: str
) -> None:
    state, envelope = _moment(Opened)
    error = _refusal(state, envelope, change(body_of(envelope, GraphNonces)))
    assert type(error) is kind
    assert text in str(error)


def test_a_stranger_to_the_key_roster_draws_nothing() -> None:
    """A client of the charter without keys in this round cannot add a nonce to the ring."""
    state, envelope = _moment(Opened)
    offers = {name: offer for name, offer in state.offers.items() if name != MALLORY}
    error = _refusal(replace(state, offers=offers), envelope, body_of(envelope, GraphNonces))
    assert type(error) is UnknownSender
    assert f"{MALLORY} is in the set but may not be" in str(error)


def test_grinding_is_leaving_out_at_most_four() -> None:
    """Each choice draws its own ring, of which the parameters allow for all; five are refused."""
    simulation = _recorded()
    state, envelope = _moment(Opened)
    context = simulation.clients[VICTIM].context
    rings = set()
    for names in [(), NAMES[10:11], NAMES[10:14], NAMES[11:15]]:
        body = _without(*names)(body_of(envelope, GraphNonces))
        forged = forge(simulation.coordinator.site.key, envelope, body)
        shared = client_step(context, state, Received(forged)).state
        assert shared.hood.ring is not None  # type: ignore[union-attr]
        rings.add(shared.hood.ring.order)  # type: ignore[union-attr]
    assert len(rings) == 4


def test_a_coordinator_that_leaves_out_five_gets_no_shares_from_anybody() -> None:
    simulation = exact_simulation(70, limits=LIMITS)
    forging(simulation, "coordinator", "GraphNonces", _without(*NAMES[10:15]))
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert all_idle_at(simulation, START)
    assert not [e for e in simulation.coordinator_received if e.header.type == "ShareBundle"]
    kinds = {type(client.violations[0]) for client in simulation.clients.values()}
    assert kinds == {BelowThreshold, RoundRefused}


def test_two_nonce_sets_in_one_round_are_equivocation() -> None:
    state, _ = _moment(Committed)
    first = _moment(Opened)[1]
    error = _refusal(state, first, _without(NAMES[10])(body_of(first, GraphNonces)))
    assert type(error) is EquivocationError
    assert "two different GraphNonces" in str(error)


def test_clients_that_were_shown_different_rings_are_in_no_common_sum() -> None:
    """Same dealers, another ring: every upload hash names the ring that it was masked on."""
    state, envelope = _moment(Committed)
    other_seed = bytes(32)
    assert state.hood.seed != other_seed

    def change(upload_set: UploadSet) -> UploadSet:
        members = [Envelope.decode(encoded) for encoded in upload_set.hashes]
        refers = dealers_hash(state.session.context, state.dealers, other_seed)
        key = key_of(_recorded(), "client-60")
        return UploadSet(
            tuple(
                (forge(key, e, refers_to=refers) if e.header.sender == "client-60" else e).encode()
                for e in members
            )
        )

    error = _refusal(state, envelope, change(body_of(envelope, UploadSet)))
    assert type(error) is EquivocationError
    assert "client-60 masked for another set of dealers than this site, on another graph" in str(
        error
    )


def test_a_client_on_another_ring_is_refused_by_the_coordinator() -> None:
    simulation = exact_simulation(70, limits=LIMITS)
    forging(simulation, MALLORY, "UploadHash", lambda body: body, header={"refers_to": bytes(32)})
    finished = simulation.run_round(1)
    assert finished.removed == (MALLORY,)
    assert "on another graph" in str(simulation.refused[0])


# ---------------------------------------------------------------- shares


def test_shares_to_a_client_that_is_no_neighbour_are_refused() -> None:
    simulation = exact_simulation(70, limits=LIMITS)

    def change(bundle: ShareBundle) -> ShareBundle:
        near = {entry.recipient for entry in bundle.shares}
        far = next(name for name in NAMES if name not in near)
        extra = replace(bundle.shares[0], recipient=far)
        return ShareBundle(tuple(sorted((*bundle.shares, extra), key=lambda e: e.recipient)))

    forging(simulation, MALLORY, "ShareBundle", change)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert MALLORY not in finished.accepted
    assert f"{MALLORY} do not cover its neighbours" in str(simulation.refused[0])


def test_shares_to_some_of_the_neighbours_only_are_refused() -> None:
    simulation = exact_simulation(70, limits=LIMITS)
    forging(simulation, MALLORY, "ShareBundle", lambda b: ShareBundle(b.shares[1:]))
    finished = simulation.run_round(1)
    assert MALLORY not in finished.accepted
    assert f"{MALLORY} do not cover its neighbours" in str(simulation.refused[0])


@pytest.mark.parametrize("change", ["of a stranger", "left out"])
def test_a_delivery_other_than_the_neighbours(change: str) -> None:
    simulation = exact_simulation(70, limits=LIMITS)

    def lie(delivery: ShareDelivery) -> ShareDelivery:
        if change == "left out":
            return replace(delivery, shares=delivery.shares[1:])
        near = {entry.dealer for entry in delivery.shares}
        far = next(name for name in NAMES if name not in near)
        extra = replace(delivery.shares[0], dealer=far)
        entries = sorted((*delivery.shares, extra), key=lambda entry: entry.dealer)
        return replace(delivery, shares=tuple(entries))

    forging(simulation, "coordinator", "ShareDelivery", lie, to=(VICTIM,))
    finished = simulation.run_round(1)
    (error,) = simulation.clients[VICTIM].violations
    assert type(error) is EquivocationError
    assert "one sealed entry per dealer nearby" in str(error)
    assert finished.outcome == "completed"
    assert VICTIM not in finished.accepted


def test_too_few_neighbours_among_the_dealers() -> None:
    """Enough dealers in all, but a victim's neighbourhood cannot rebuild anything."""
    simulation = exact_simulation(100, limits={"colluding": 1, "dropouts": 20})
    graph = simulation.federation.thresholds.graph(100)

    def lie(delivery: ShareDelivery) -> ShareDelivery:
        near = [entry.dealer for entry in delivery.shares if entry.dealer != VICTIM]
        gone = set(near[: len(near) + 2 - graph.threshold])
        return ShareDelivery(
            tuple(name for name in delivery.dealers if name not in gone),
            tuple(entry for entry in delivery.shares if entry.dealer not in gone),
        )

    forging(simulation, "coordinator", "ShareDelivery", lie, to=(VICTIM,))
    simulation.run_round(1)
    (error,) = simulation.clients[VICTIM].violations
    assert type(error) is BelowThreshold
    assert f"{graph.threshold - 1} of this site's neighbours dealt shares" in str(error)


def test_a_false_share_is_refused_and_its_revealer_named() -> None:
    simulation = exact_simulation(70, limits=LIMITS)
    about: list[str] = []

    def lie(reveal: Unmask) -> Unmask:
        first = reveal.seed_shares[0]
        about.append(first.dealer)
        false = replace(first, value=first.value[:-1] + bytes([first.value[-1] ^ 1]))
        return replace(reveal, seed_shares=(false, *reveal.seed_shares[1:]))

    forging(simulation, MALLORY, "Unmask", lie)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    (error,) = [e for e in simulation.refused if "reveals false shares" in str(e)]
    assert str(error).startswith(f"{MALLORY} reveals false shares of {about[0]}: ")


def test_a_share_of_somebody_who_is_no_neighbour_is_refused() -> None:
    simulation = exact_simulation(70, limits=LIMITS)

    def lie(reveal: Unmask) -> Unmask:
        near = {share.dealer for share in reveal.seed_shares}
        far = next(name for name in NAMES if name not in near)
        extra = replace(reveal.seed_shares[0], dealer=far)
        shares = sorted((*reveal.seed_shares, extra), key=lambda share: share.dealer)
        return replace(reveal, seed_shares=tuple(shares))

    forging(simulation, MALLORY, "Unmask", lie)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert [e for e in simulation.refused if f"{MALLORY} reveals false shares" in str(e)]


# ---------------------------------------------------------------- chosen dropouts


def _cut_out(simulation: RecordingSimulation, spare: int) -> Callable[[Cohort], Cohort]:
    """Drop whoever stands next to VICTIM on the ring, on both sides, all but ``spare``."""

    def change(cohort: Cohort) -> Cohort:
        state = simulation.state
        assert isinstance(state, Voting)
        near = [name for name in state.group.hood.of(VICTIM) if name != VICTIM]
        gone = sorted(near[spare:])
        accepted = tuple(n for n in cohort.accepted if n not in gone)
        return replace(cohort, accepted=accepted, removed=tuple(gone))

    return change


def test_a_cohort_without_the_arc_around_a_victim_is_refused_by_everybody() -> None:
    """As many removed as limits.dropouts allows, all of them the victim's neighbours."""
    simulation = exact_simulation(100, limits={"colluding": 1, "dropouts": 20})
    graph = simulation.federation.thresholds.graph(100)
    spare = graph.min_neighbours - 1
    assert graph.degree - spare <= 20
    forging(simulation, "coordinator", "Cohort", _cut_out(simulation, spare))
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert revealed(simulation) == 0
    assert all_idle_at(simulation, START)
    for client in simulation.clients.values():
        (error,) = client.violations
        assert type(error) is BelowThreshold
        assert VICTIM in str(error)
        assert f"fewer than {graph.min_neighbours} accepted neighbours" in str(error)
        assert "CohortVote" not in [envelope.header.type for envelope in client.sent]


def test_a_victim_with_just_enough_neighbours_left_is_voted_for() -> None:
    simulation = exact_simulation(100, limits={"colluding": 1, "dropouts": 20})
    graph = simulation.federation.thresholds.graph(100)
    forging(simulation, "coordinator", "Cohort", _cut_out(simulation, graph.min_neighbours))
    simulation.run_round(1)
    voted = [c for c in simulation.clients.values() if c.sent[-1].header.type == "CohortVote"]
    assert len(voted) == 100
    assert revealed(simulation) == 0  # the votes are not for what the coordinator itself proposed


def test_the_coordinator_itself_proposes_no_such_cohort() -> None:
    """Accidents that leave somebody alone end the round before anybody is asked to vote."""
    simulation = exact_simulation(100, limits={"colluding": 1, "dropouts": 20})
    graph = simulation.federation.thresholds.graph(100)
    gone: set[str] = set()

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type == "UploadSet" and not gone:
            state = simulation.clients[VICTIM].state
            near = [name for name in state.hood.of(VICTIM) if name != VICTIM]  # type: ignore[union-attr]
            gone.update(near[graph.min_neighbours - 1 :])
        lost = sender in gone and envelope.header.type == "Upload"
        return () if lost else ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert VICTIM in finished.reason
    assert "too few to hide behind" in finished.reason
    assert all_idle_at(simulation, START)
