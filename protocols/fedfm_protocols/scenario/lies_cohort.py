"""Steps 8 to 11: a malicious coordinator lies about who is in the sum and who voted."""

from __future__ import annotations

from dataclasses import replace

from fedfm_protocols.context import NO_HASH
from fedfm_protocols.messages import Cohort, CohortProof, CohortVote, body_hash
from fedfm_protocols.scenario.actors import OUTSIDER, outsider, resigned, swapped
from fedfm_protocols.scenario.lies import Moment, Signed, lie

# ---------------------------------------------------------------- step 8


def _moved(cohort: Cohort, names: tuple[str, ...]) -> Cohort:
    """The cohort with ``names`` moved from accepted to removed."""
    return replace(
        cohort,
        accepted=tuple(name for name in cohort.accepted if name not in names),
        removed=tuple(sorted({*cohort.removed, *names})),
    )


@lie("double-list", "Cohort", needs=("client",))
def _double_list(moment: Moment, cohort: Cohort) -> Cohort:
    """`client` is listed as accepted and as removed: both kinds of its shares are asked for."""
    return replace(cohort, removed=tuple(sorted({*cohort.removed, moment.client})))


@lie("double-list-all", "Cohort")
def _double_list_all(moment: Moment, cohort: Cohort) -> Cohort:
    """Everyone is listed as accepted and as removed."""
    return replace(cohort, removed=cohort.accepted)


@lie("second-cohort", "Cohort", needs=("clients",))
def _second_cohort(moment: Moment, cohort: Cohort) -> Cohort:
    """Another cohort, in which `clients` vanished; with `to`, different parties see different
    ones."""
    return _moved(cohort, moment.clients)


@lie("lie-about-dropouts", "Cohort", needs=("clients",))
def _lie_about_dropouts(moment: Moment, cohort: Cohort) -> Cohort:
    """`clients`, who uploaded, are said to have vanished."""
    return _moved(cohort, moment.clients)


@lie("shrink-cohort", "Cohort", needs=("count",))
def _shrink_cohort(moment: Moment, cohort: Cohort) -> Cohort:
    """Only the first `count` uploads are accepted."""
    return _moved(cohort, cohort.accepted[moment.count :])


@lie("accept-twice", "Cohort", needs=("client",))
def _accept_twice(moment: Moment, cohort: Cohort) -> Cohort:
    """`client` is accepted twice."""
    return replace(cohort, accepted=tuple(sorted((*cohort.accepted, moment.client))))


@lie("remove-twice", "Cohort", needs=("client",))
def _remove_twice(moment: Moment, cohort: Cohort) -> Cohort:
    """`client` is removed, twice."""
    moved = _moved(cohort, (moment.client,))
    return replace(moved, removed=tuple(sorted((*moved.removed, moment.client))))


@lie("omit-dealer", "Cohort", needs=("client",))
def _omit_dealer(moment: Moment, cohort: Cohort) -> Cohort:
    """`client`, who dealt shares, is in neither list."""
    moved = _moved(cohort, (moment.client,))
    return replace(moved, removed=cohort.removed)


@lie("accept-stranger", "Cohort")
def _accept_stranger(moment: Moment, cohort: Cohort) -> Cohort:
    """Somebody who dealt no shares is accepted."""
    return replace(cohort, accepted=(*cohort.accepted, OUTSIDER))


@lie("accept-uncommitted", "Cohort", needs=("client",))
def _accept_uncommitted(moment: Moment, cohort: Cohort) -> Cohort:
    """`client`, who committed no upload, is accepted."""
    removed = tuple(name for name in cohort.removed if name != moment.client)
    return replace(
        cohort, accepted=tuple(sorted({*cohort.accepted, moment.client})), removed=removed
    )


@lie("cohort-of-other-uploads", "Cohort")
def _other_uploads(moment: Moment, cohort: Cohort) -> Signed:
    """The envelope of the cohort refers to another upload set."""
    return Signed(cohort, {"refers_to": NO_HASH})


@lie("cohort-names-other-uploads", "Cohort")
def _names_other_uploads(moment: Moment, cohort: Cohort) -> Cohort:
    """The cohort itself names another upload set."""
    return replace(cohort, upload_set=b"\x66" * 32)


@lie("drop-arc", "Cohort", needs=("client", "count"))
def _drop_arc(moment: Moment, cohort: Cohort) -> Cohort:
    """The `count` ring neighbours nearest to `client` are said to have vanished, so that it hides
    behind few (sparse graph)."""
    hood = moment.stage.hood
    if hood is None or hood.ring is None:
        return cohort
    order, size = hood.ring.order, len(hood.ring.order)
    at = order.index(moment.client)
    near: list[str] = []
    for distance in range(1, size // 2):
        near += [order[(at - distance) % size], order[(at + distance) % size]]
    return _moved(cohort, tuple(near[: moment.count]))


# ---------------------------------------------------------------- step 10


@lie("few-votes", "CohortProof", needs=("count",))
def _few_votes(moment: Moment, proof: CohortProof) -> CohortProof:
    """The proof holds only `count` votes."""
    return CohortProof(proof.votes[: moment.count])


@lie("repeat-vote", "CohortProof", needs=("count",))
def _repeat_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """The proof holds `count` votes and one of them twice."""
    return CohortProof((proof.votes[0], *proof.votes[: moment.count]))


@lie("vote-for-other-cohort", "CohortProof", needs=("client",), signs_for=True)
def _other_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """One vote in the proof, an accomplice's, is for another cohort."""
    digest = body_hash(Cohort(NO_HASH, (moment.client,), ()))
    return CohortProof(moment.accomplice(proof.votes, CohortVote(digest), refers_to=digest))


@lie("strangers-vote", "CohortProof")
def _strangers_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """Somebody who is in no charter votes."""
    return CohortProof((*proof.votes, resigned(outsider(), proof.votes[0], sender=OUTSIDER)))


@lie("own-vote", "CohortProof")
def _own_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """The coordinator votes too."""
    own = resigned(moment.speaker, proof.votes[0], sender=moment.speaker.name)
    return CohortProof((*proof.votes, own))


@lie("forge-vote", "CohortProof")
def _forge_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """The coordinator signs the last vote in its sender's name."""
    last = len(proof.votes) - 1
    return CohortProof(swapped(proof.votes, last, resigned(moment.speaker, proof.votes[last])))


@lie("old-vote", "CohortProof", needs=("client",), signs_for=True)
def _old_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """An accomplice's vote in the proof was signed for another round."""
    return CohortProof(moment.accomplice(proof.votes, context=bytes(32)))


@lie("other-message-as-vote", "CohortProof", needs=("client",), signs_for=True)
def _ack_as_vote(moment: Moment, proof: CohortProof) -> CohortProof:
    """An accomplice's acknowledgement is passed off as a vote."""
    return CohortProof(moment.accomplice(proof.votes, type="RoundAck"))


@lie("proof-of-other-cohort", "CohortProof")
def _other_proof(moment: Moment, proof: CohortProof) -> Signed:
    """The proof refers to another cohort."""
    return Signed(proof, {"refers_to": bytes(32)})
