"""A malicious coordinator in steps 8 to 11: whose shares it would like to see, and never does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.errors import (
    BelowThreshold,
    EquivocationError,
    MalformedMessage,
    ProtocolError,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.messages import Cohort, CohortProof, CohortVote, Unmask, body_hash
from fedfm_protocols.simulation import Delivery
from fedfm_protocols.thresholds import Thresholds
from tests.protocols.federations import make_keys
from tests.protocols.scripted import (
    START,
    Crash,
    RecordingSimulation,
    all_idle_at,
    body_of,
    exact_simulation,
    first_problem,
    forge,
    forging,
    key_of,
    revealed,
    sent_types,
)

KEYS = make_keys(5)
NAMES = tuple(sorted(KEYS.clients))
VICTIM = "client-03"


def without_victim(cohort: Cohort) -> Cohort:
    """A cohort of the same uploads, from which the victim has vanished."""
    return replace(cohort, accepted=tuple(n for n in NAMES if n != VICTIM), removed=(VICTIM,))


def _nothing_revealed(simulation: RecordingSimulation) -> None:
    assert revealed(simulation) == 0
    assert all(not client.totals for client in simulation.clients.values())


# ---------------------------------------------------------------- one cohort that is wrong

BAD_COHORTS: dict[str, tuple[Callable[[Cohort], Cohort], type[ProtocolError], str]] = {
    "victim listed twice": (
        lambda c: Cohort(c.upload_set, c.accepted, (VICTIM,)),
        EquivocationError,
        f"{VICTIM} listed as accepted and as removed",
    ),
    "everyone listed twice": (
        lambda c: Cohort(c.upload_set, c.accepted, c.accepted),
        EquivocationError,
        "listed as accepted and as removed",
    ),
    "victim accepted twice": (
        lambda c: replace(c, accepted=tuple(sorted((*c.accepted, VICTIM)))),
        EquivocationError,
        "sorted and hold each name once",
    ),
    "unsorted": (
        lambda c: replace(c, accepted=tuple(reversed(c.accepted))),
        EquivocationError,
        "sorted and hold each name once",
    ),
    "a dealer in neither list": (
        lambda c: Cohort(c.upload_set, c.accepted[:-1], ()),
        EquivocationError,
        "exactly the dealers",
    ),
    "a stranger": (
        lambda c: Cohort(c.upload_set, (*c.accepted, "eve"), ()),
        EquivocationError,
        "exactly the dealers",
    ),
    "one honest client alone among the colluders": (
        lambda c: Cohort(c.upload_set, c.accepted[:2], c.accepted[2:]),
        BelowThreshold,
        "2 updates accepted, 4 are needed",
    ),
    "one below the charter's promise": (
        lambda c: Cohort(c.upload_set, c.accepted[:3], c.accepted[3:]),
        BelowThreshold,
        "3 updates accepted, 4 are needed",
    ),
    "nobody": (
        lambda c: replace(c, accepted=(), removed=c.accepted),
        BelowThreshold,
        "0 updates accepted",
    ),
}


@pytest.mark.parametrize("lie", BAD_COHORTS)
def test_a_cohort_that_is_wrong_gets_no_vote_and_no_share(lie: str) -> None:
    change, expected, text = BAD_COHORTS[lie]
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "Cohort", change)
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.record) == ("aborted", None)
    _nothing_revealed(simulation)
    for name, client in simulation.clients.items():
        assert isinstance(client.violations[0], expected)
        assert text in str(client.violations[0])
        assert "CohortVote" not in sent_types(simulation)[name]
        assert not [record for record in client.journal if record.record == "voted"]
    assert all_idle_at(simulation, START)


def test_a_client_that_committed_nothing_cannot_be_accepted() -> None:
    simulation = exact_simulation(5, intercept=Crash({"client-05": "UploadHash"}))
    crash = simulation.intercept
    forger = forging(simulation, "coordinator", "Cohort", lambda c: Cohort(c.upload_set, NAMES, ()))
    forge_cohort = simulation.intercept

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        return [
            delivery
            for passed in crash(sender, recipient, envelope)
            for delivery in forge_cohort(sender, passed[0], passed[1])
        ]

    simulation.intercept = network
    simulation.run_round(1)
    assert forger.done == 4
    assert "client-05 accepted without a committed upload" in str(
        simulation.clients["client-01"].violations[0]
    )
    _nothing_revealed(simulation)


def test_a_cohort_of_another_upload_set() -> None:
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "Cohort", lambda c: c, header={"refers_to": bytes(32)})
    assert simulation.run_round(1).outcome == "aborted"
    assert "another upload set" in str(simulation.clients[VICTIM].violations[0])
    _nothing_revealed(simulation)


# ---------------------------------------------------------------- two cohorts


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_two_cohorts_shown_to_two_groups_reach_no_quorum(first: int) -> None:
    """The classic: one group reveals the victim's seed, the other its mask key."""
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "Cohort", without_victim, to=NAMES[first:])
    finished = simulation.run_round(1)
    seeds: set[str] = set()
    keys: set[str] = set()
    for name, client in simulation.clients.items():
        for envelope in client.sent:
            if envelope.header.type == "Unmask":
                body = body_of(envelope, Unmask)
                seeds |= {name for s in body.seed_shares if s.dealer == VICTIM}
                keys |= {name for s in body.key_shares if s.dealer == VICTIM}
    assert not keys  # the forged cohort never has the four votes
    if first < 4:
        assert finished.outcome == "aborted"
        _nothing_revealed(simulation)
    else:  # four clients vote for the true one: that is one quorum, and still one kind of share
        assert finished.outcome == "completed"
        assert "client-05" not in seeds
        assert "another cohort" in str(simulation.clients["client-05"].violations[0])


@pytest.mark.parametrize("after", ["Cohort", "CohortProof", "Aggregate"])
def test_a_second_cohort_for_one_client_ends_the_round_for_it(after: str) -> None:
    """Before its peers have voted, after the proof (shares are out), and after the sum."""
    simulation = exact_simulation(5)
    cohorts: list[Envelope] = []

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        kind = envelope.header.type
        if kind == "Cohort":
            cohorts.append(envelope)
        if recipient == VICTIM and kind == after:
            second = forge(
                key_of(simulation, "coordinator"),
                cohorts[0],
                without_victim(body_of(cohorts[0], Cohort)),
            )
            return ((recipient, envelope), (recipient, second))
        return ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(1)
    (error,) = simulation.clients[VICTIM].violations
    assert isinstance(error, EquivocationError)
    assert "two different Cohort messages" in str(error)
    sent = sent_types(simulation)[VICTIM]
    assert sent.count("CohortVote") == 1
    assert sent.count("Unmask") == (0 if after == "Cohort" else 1)
    assert all_idle_at(simulation, START, [VICTIM])
    assert finished.outcome == "completed"  # the other four are enough
    if after == "Cohort":
        assert [record.record for record in simulation.clients[VICTIM].journal] == [
            "opened",
            "voted",
            "closed",
        ]


def test_the_same_cohort_again_is_only_a_resend() -> None:
    simulation = exact_simulation(5)
    simulation.intercept = lambda sender, recipient, envelope: (
        ((recipient, envelope),) * 2 if sender == "coordinator" else ((recipient, envelope),)
    )
    assert simulation.run_round(1).accepted == NAMES
    for name, client in simulation.clients.items():
        assert not client.violations
        assert sent_types(simulation)[name].count("Unmask") == 1


def test_colluders_who_vote_for_both_cohorts_give_neither_a_quorum() -> None:
    """n = 5, c = 1: two honest clients see each cohort, the colluder signs both: 3 votes each."""
    simulation = exact_simulation(5)
    colluder = "client-05"
    groups = {"client-01": 0, "client-02": 0, "client-03": 1, "client-04": 1}
    votes: dict[str, Envelope] = {}

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        kind = envelope.header.type
        if kind == "CohortVote":
            votes[sender] = envelope
            if len(votes) < 5:
                return ()
            return tuple(_both_proofs())
        if kind == "Cohort" and groups.get(recipient) == 1:
            other = without_victim(body_of(envelope, Cohort))
            return ((recipient, forge(key_of(simulation, sender), envelope, other)),)
        if kind == "Cohort":
            template["Cohort"] = envelope
        return ((recipient, envelope),)

    template: dict[str, Envelope] = {}

    def _both_proofs() -> list[Delivery]:
        proofs = []
        honest_cohort = body_of(template["Cohort"], Cohort)
        for group, cohort in enumerate((honest_cohort, without_victim(honest_cohort))):
            digest = body_hash(cohort)
            signed = {n: v for n, v in votes.items() if groups.get(n) == group}
            signed[colluder] = forge(
                KEYS.clients[colluder],
                votes[colluder],
                CohortVote(digest),
                refers_to=digest,
            )
            assert len(signed) == 3
            proof = CohortProof(tuple(signed[name].encode() for name in sorted(signed)))
            envelope = forge(
                key_of(simulation, "coordinator"),
                template["Cohort"],
                proof,
                type="CohortProof",
                sequence=99,
                refers_to=digest,
            )
            proofs += [(name, envelope) for name, side in groups.items() if side == group]
        return proofs

    simulation.intercept = network
    simulation.run_round(1)
    for name in groups:
        (error,) = simulation.clients[name].violations
        assert isinstance(error, BelowThreshold)
        assert "3 votes in the proof, 4 are needed" in str(error)
    _nothing_revealed(simulation)


@pytest.mark.parametrize("clients", [3, 4, 5, 6, 7])
def test_no_split_of_the_honest_clients_gives_two_quorums(clients: int) -> None:
    """All ways in which honest clients vote for A, for B or not at all; colluders vote twice."""
    for colluding in range(1, clients):
        try:
            quorum = Thresholds(clients, colluding, 0).vote_quorum
        except ProtocolError:
            continue
        for votes in product("AB-", repeat=clients - colluding):
            both = [votes.count(side) + colluding >= quorum for side in "AB"]
            assert not all(both), (clients, colluding, votes)


# ---------------------------------------------------------------- the proof


ProofLie = tuple[Callable[[CohortProof], CohortProof], type[ProtocolError], str]


def _proof_lies(simulation: RecordingSimulation) -> dict[str, ProofLie]:
    def other_vote(proof: CohortProof) -> CohortProof:
        last = Envelope.decode(proof.votes[-1])
        digest = bytes(32)
        vote = forge(
            key_of(simulation, last.header.sender), last, CohortVote(digest), refers_to=digest
        )
        return CohortProof((*proof.votes[:-1], vote.encode()))

    def stranger(proof: CohortProof) -> CohortProof:
        eve = forge(KEYS.log, Envelope.decode(proof.votes[0]), sender="eve")
        return CohortProof((*proof.votes, eve.encode()))

    def coordinator(proof: CohortProof) -> CohortProof:
        own = forge(KEYS.coordinator, Envelope.decode(proof.votes[0]), sender="coordinator")
        return CohortProof((*proof.votes, own.encode()))

    def forged(proof: CohortProof) -> CohortProof:
        last = forge(KEYS.coordinator, Envelope.decode(proof.votes[-1]))
        return CohortProof((*proof.votes[:-1], last.encode()))

    def other_round(proof: CohortProof) -> CohortProof:
        last = Envelope.decode(proof.votes[-1])
        old = forge(key_of(simulation, last.header.sender), last, context=bytes(32))
        return CohortProof((*proof.votes[:-1], old.encode()))

    def other_type(proof: CohortProof) -> CohortProof:
        last = Envelope.decode(proof.votes[-1])
        ack = forge(key_of(simulation, last.header.sender), last, type="RoundAck")
        return CohortProof((*proof.votes[:-1], ack.encode()))

    return {
        "too few": (
            lambda p: CohortProof(p.votes[:3]),
            BelowThreshold,
            "3 votes in the proof, 4 are needed",
        ),
        "none": (lambda p: CohortProof(()), BelowThreshold, "0 votes"),
        "one vote counted twice": (
            lambda p: CohortProof((p.votes[0], *p.votes[:3])),
            MalformedMessage,
            "each sender once",
        ),
        "a vote for another cohort": (other_vote, EquivocationError, "two cohorts were shown"),
        "a stranger's vote": (stranger, UnknownSender, "eve"),
        "the coordinator's own vote": (coordinator, UnknownSender, "may not be"),
        "a forged vote": (forged, UnknownSender, "not signed by the key enrolled"),
        "a vote of another round": (other_round, WrongContext, "was signed for context"),
        "an acknowledgement as a vote": (other_type, MalformedMessage, "found RoundAck"),
    }


@pytest.mark.parametrize("lie", list(_proof_lies(exact_simulation(5))))
def test_a_proof_that_does_not_hold_opens_nothing(lie: str) -> None:
    simulation = exact_simulation(5)
    change, expected, text = _proof_lies(simulation)[lie]
    forging(simulation, "coordinator", "CohortProof", change)
    assert simulation.run_round(1).outcome == "aborted"
    _nothing_revealed(simulation)
    for client in simulation.clients.values():
        error = first_problem(client, expected)
        assert isinstance(error, expected)
        assert text in str(error)


def test_a_proof_about_another_cohort() -> None:
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "CohortProof", lambda p: p, header={"refers_to": bytes(32)})
    assert simulation.run_round(1).outcome == "aborted"
    assert "another cohort" in str(simulation.clients[VICTIM].violations[0])
    _nothing_revealed(simulation)


def test_shares_are_revealed_once_and_one_per_dealer() -> None:
    """With a client removed after dealing: its mask key and nobody's twice."""
    simulation = exact_simulation(5, intercept=Crash({VICTIM: "Upload"}))
    finished = simulation.run_round(1)
    assert finished.removed == (VICTIM,)
    for name, client in simulation.clients.items():
        bodies = [body_of(e, Unmask) for e in client.sent if e.header.type == "Unmask"]
        assert len(bodies) == (0 if name == VICTIM else 1)
        for body in bodies:
            seeds = [share.dealer for share in body.seed_shares]
            keys = [share.dealer for share in body.key_shares]
            assert tuple(seeds) == finished.accepted
            assert tuple(keys) == finished.removed
