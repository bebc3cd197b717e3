"""Client, steps 8 to 11: one vote for one cohort, and exactly one share per dealer."""

from __future__ import annotations

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.checks import is_sorted_unique
from fedfm_protocols.client_protect import prepare_step
from fedfm_protocols.client_session import ClientContext, say, taken
from fedfm_protocols.client_states import ClientState, JudgedStep, Unmasked, Uploaded, Voted
from fedfm_protocols.effects import Persist, Transition
from fedfm_protocols.errors import BelowThreshold, EquivocationError
from fedfm_protocols.messages import (
    Cohort,
    CohortProof,
    CohortVote,
    RevealedShare,
    Unmask,
    body_hash,
    read_body,
)
from fedfm_protocols.split_view import one_history


def vote_cohort(
    context: ClientContext, state: Uploaded, envelope: Envelope
) -> Transition[ClientState]:
    """Steps 8 and 9 without a validator: one vote for the cohort shown, if it is in order."""
    cohort = read_body(envelope, Cohort)
    if not state.upload_set == cohort.upload_set == envelope.header.refers_to:
        raise EquivocationError("the cohort refers to another upload set")
    return cast_vote(context, state, envelope, cohort, None)


def cast_vote(
    context: ClientContext,
    state: Uploaded,
    envelope: Envelope,
    cohort: Cohort,
    judged: JudgedStep | None,
) -> Transition[ClientState]:
    """Check the cohort for itself and vote for it; where a validator judged, the vote names its
    verdict as well."""
    check_cohort(
        cohort,
        dealers=state.dealers,
        uploaders=frozenset(state.wraps),
        min_accepted=context.site.federation.thresholds.min_accepted,
    )
    state.hood.check_cohort(cohort)
    session = taken(state.session, envelope)
    digest = body_hash(cohort)
    persist = Persist(session.identity.round, session.step, "voted", digest)
    named = digest if judged is None else judged.verdict_hash
    session, send = say(context, state.memory, session, CohortVote(digest), named)
    voted = Voted(
        state.memory,
        session,
        state.hood,
        state.held,
        state.wraps,
        state.values,
        cohort,
        digest,
        state.later,
        judged,
    )
    return Transition(voted, (persist, send))


def check_cohort(
    cohort: Cohort, *, dealers: tuple[str, ...], uploaders: frozenset[str], min_accepted: int
) -> None:
    """Refuse a cohort that lists anyone twice, misses a dealer, or isolates a client.

    Raises
    ------
    EquivocationError, BelowThreshold
        naming what is wrong with it.
    """
    accepted, removed = set(cohort.accepted), set(cohort.removed)
    both = sorted(accepted & removed)
    if both:
        raise EquivocationError(
            f"{', '.join(both)} listed as accepted and as removed: both kinds of shares "
            "together would unmask the update"
        )
    if not is_sorted_unique(cohort.accepted) or not is_sorted_unique(cohort.removed):
        raise EquivocationError("the cohort must be sorted and hold each name once")
    if accepted | removed != set(dealers):
        raise EquivocationError("accepted and removed must together be exactly the dealers")
    if not accepted <= uploaders:
        strangers = ", ".join(sorted(accepted - uploaders))
        raise EquivocationError(f"{strangers} accepted without a committed upload")
    if len(accepted) < min_accepted:
        raise BelowThreshold(f"{len(accepted)} updates accepted, {min_accepted} are needed")


def unmask(context: ClientContext, state: Voted, envelope: Envelope) -> Transition[ClientState]:
    federation, session = context.site.federation, state.session
    proof = read_body(envelope, CohortProof)
    if envelope.header.refers_to != state.cohort_hash:
        raise EquivocationError("the proof refers to another cohort than this site voted for")
    members = one_history(context.open_set, session)(
        proof.votes,
        CohortVote,
        federation=federation,
        allowed=federation.clients,
        context=session.context,
        step=session.step,
    )
    for name, (member, vote) in members.items():
        if state.judged and member.header.refers_to != state.judged.verdict_hash:
            raise EquivocationError(f"{name} voted under another verdict: two were shown")
        if vote.cohort_hash != state.cohort_hash:
            raise EquivocationError(
                f"{name} voted for cohort {vote.cohort_hash.hex()[:16]}, this site for "
                f"{state.cohort_hash.hex()[:16]}: two cohorts were shown"
            )
    quorum = federation.thresholds.vote_quorum
    if len(members) < quorum:
        raise BelowThreshold(f"{len(members)} votes in the proof, {quorum} are needed")
    session = taken(session, envelope)
    persist = Persist(session.identity.round, session.step, "unmasked", state.cohort_hash)
    session, send = say(context, state.memory, session, _reveal(state), state.cohort_hash)
    following = None
    accepted = state.cohort.accepted
    if state.later and context.site.name in accepted:
        # Whoever is not in this sum is left out from here on: nobody masks with it any more, so
        # nobody will have to open its later keys.
        following = prepare_step(
            context, state.memory, session.next_step(), state.hood, accepted, state.later
        )
    unmasked = Unmasked(
        state.memory,
        session,
        state.wraps,
        state.values,
        state.cohort,
        state.cohort_hash,
        following,
        judged=state.judged,
    )
    return Transition(unmasked, (persist, send))


def _reveal(state: Voted) -> Unmask:
    """Exactly one share per dealer: seed if accepted, mask key if removed."""
    accepted = frozenset(state.cohort.accepted)
    seeds, keys = [], []
    for dealer, own in sorted(state.held.items()):
        if dealer in accepted:
            seeds.append(RevealedShare(dealer, own.seed, own.seed_salt))
        else:
            keys.append(RevealedShare(dealer, own.key, own.key_salt))
    return Unmask(tuple(seeds), tuple(keys))
