"""Step 4, first half: the statements come in the one order that a federation can have.

Enrolments with commitments to marks among them, the federation, rounds 1, 2, 3, ... (of every kind,
aborted and void ones included) with entries of privacy ledgers and changes of the log's key between
them, owners' words about their marks after the round that wrote them, and the conclusion, which is
missing while the federation runs and counts rounds of kind ``train``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedfm_audit.charter_view import CharterView
from fedfm_audit.messages import TRAIN, WATERMARK
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.statements import (
    ConclusionPredicate,
    EnrolmentPredicate,
    FederationPredicate,
    LogKeyPredicate,
    MarkCheckPredicate,
    MarkPredicate,
    RoundPredicate,
)
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.leaves import Leaf

_ORDER = (EnrolmentPredicate, FederationPredicate, RoundPredicate, ConclusionPredicate)


def check_history(leaves: Sequence[Leaf], charter: CharterView, findings: Findings) -> None:
    """Check order, numbering and what statements say about each other."""
    reached = 0
    number = 0
    outcomes: Counter[str] = Counter()
    federations = 0
    marked = False
    for leaf in leaves:
        predicate = leaf.statement.predicate
        # Charges come before the round they pay for, and the log's key may change between rounds.
        between = isinstance(predicate, PrivacyPredicate | LogKeyPredicate | MarkCheckPredicate)
        kind = RoundPredicate if between else type(predicate)
        rank = _ORDER.index(EnrolmentPredicate if kind is MarkPredicate else kind)
        if rank < reached or (rank == reached == len(_ORDER) - 1):
            findings.fail(leaf.place, f"{predicate.TYPE} after {_ORDER[reached].TYPE}")
        reached = max(reached, rank)
        match predicate:
            case EnrolmentPredicate() | MarkPredicate():
                continue
            case FederationPredicate():
                federations += 1
                _check_federation(leaf, predicate, charter, findings)
            case RoundPredicate():
                if predicate.round != number + 1:
                    findings.fail(
                        leaf.place, f"round {predicate.round}, expected round {number + 1}"
                    )
                number = predicate.round
                marked = _count_round(leaf, predicate, outcomes, marked, charter, findings)
            case ConclusionPredicate():
                _check_conclusion(leaf, predicate, outcomes, findings)
        if predicate.charter != charter.digest.hex():
            findings.fail(leaf.place, f"names charter {predicate.charter}, not this one")
    if federations != 1:
        findings.fail("the log", f"{federations} federation statements, expected one")
    if outcomes["completed"] > charter.rounds:
        findings.fail(
            "the log",
            f"{outcomes['completed']} rounds completed, the charter allows {charter.rounds}",
        )


def _count_round(
    leaf: Leaf,
    predicate: RoundPredicate,
    outcomes: Counter[str],
    marked: bool,
    charter: CharterView,
    findings: Findings,
) -> bool:
    """Count a round of training; whether the adapter is marked after this round."""
    # A key generation takes a number, but is none of the rounds that were agreed.
    if predicate.kind == TRAIN:
        outcomes[predicate.outcome] += 1
        if marked:
            findings.fail(leaf.place, "trains after the adapter was marked")
    elif predicate.kind == WATERMARK:
        _check_marks_in_place(leaf, outcomes["completed"], marked, charter, findings)
        return marked or predicate.outcome == "completed"
    return marked


def _check_marks_in_place(
    leaf: Leaf, completed: int, marked: bool, charter: CharterView, findings: Findings
) -> None:
    """Marks are written once, right after the last round of training that was agreed."""
    if not charter.marked:
        findings.fail(leaf.place, "a round of marks, of which the charter has none")
    elif completed != charter.rounds:
        findings.fail(
            leaf.place,
            f"a round of marks after {completed} rounds of training, the charter has "
            f"{charter.rounds}",
        )
    if marked:
        findings.fail(leaf.place, "the adapter was marked before")


def _check_federation(
    leaf: Leaf, predicate: FederationPredicate, charter: CharterView, findings: Findings
) -> None:
    if predicate.base_model != charter.base_model:
        findings.fail(leaf.place, "names another base model than the charter")
    if predicate.config != charter.config_hash.hex():
        findings.fail(leaf.place, "names another training configuration than the charter")
    names = [one.name for one in predicate.distributions]
    if names != sorted(set(names)):
        findings.fail(leaf.place, "lists distributions unsorted or repeated")


def _check_conclusion(
    leaf: Leaf, predicate: ConclusionPredicate, outcomes: Counter[str], findings: Findings
) -> None:
    said = (predicate.completed, predicate.void, predicate.aborted)
    found = (outcomes["completed"], outcomes["void"], outcomes["aborted"])
    if said != found:
        findings.fail(
            leaf.place, f"says {said} rounds completed, void, aborted; the log has {found}"
        )
