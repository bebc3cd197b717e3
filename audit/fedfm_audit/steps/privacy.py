"""Step 6: every institution's privacy ledger, recomputed from its events alone.

For each institution: its entries are complete, in order and linked; each states what the charter
agreed; the figures are those that the events give; the budget is never exceeded; whoever sent
anything about an update had charged the round (all its steps) in the log before; every opened sum
held the honest shares of noise that were charged for; a settled round had the outcome, the steps
and the number of updates that its transcript shows.  This checks claims: that the noise was really
added, no signature can show.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedfm_audit.charter_view import CharterView
from fedfm_audit.messages import WATERMARK, Cohort, UploadHash
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.privacy.events import (
    CompletedRound,
    CompletedSession,
    GaussianSteps,
    LatticeSteps,
)
from fedfm_audit.privacy.reader import LedgerReader, open_readers
from fedfm_audit.privacy.terms import SHARING, PrivacyTerms, read_terms
from fedfm_audit.statements import RoundPredicate
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.leaves import Leaf
from fedfm_audit.transcript import read_body

_COMMITTING = ("UploadHash", "Upload")
"""Messages after which an update may be out of the institution's hands."""

Entries = Mapping[str, Sequence[tuple[Leaf, PrivacyPredicate]]]


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """One institution's ledger: how many entries, and what they cost in all; how many of them
    state a figure by PLD, and how many of those were recomputed."""

    institution: str
    entries: int
    epsilon: float
    delta: float
    budget: float
    pld_stated: int
    pld_recomputed: int


def why_not_checkable(charter: CharterView) -> str | None:
    """The reason why there is nothing to recompute, or None."""
    if charter.privacy["mode"] == "none":
        return "the charter's privacy mode is none: there is no privacy claim to recompute"
    return None


def check_privacy(
    charter: CharterView,
    leaves: Sequence[Leaf],
    rounds: Sequence[RoundEvidence],
    findings: Findings,
    *,
    full: bool = False,
) -> tuple[LedgerSummary, ...]:
    """Check all ledgers; ``full`` recomputes every PLD figure (seconds for each distinct state).

    With privacy mode none any entry at all is a failure.
    """
    entries: dict[str, list[tuple[Leaf, PrivacyPredicate]]] = defaultdict(list)
    for leaf in leaves:
        predicate = leaf.statement.predicate
        if isinstance(predicate, PrivacyPredicate):
            entries[predicate.institution].append((leaf, predicate))
    terms = read_terms(charter.privacy, charter.thresholds, charter.values, charter.scale)
    if terms is None:
        for listed in entries.values():
            for leaf, _ in listed:
                findings.fail(leaf.place, "is a ledger entry; the charter's privacy mode is none")
        return ()
    listed_by = {name: entries.get(name, []) for name in charter.clients}
    readers = open_readers(
        {name: [entry for _, entry in listed] for name, listed in listed_by.items()},
        terms.delta,
        pld=full,
    )
    summaries = [
        _check_ledger(charter, terms, name, listed, findings, readers[name])
        for name, listed in listed_by.items()
    ]
    statements = {
        leaf.statement.predicate.round: (leaf.index, leaf.statement.predicate)
        for leaf in leaves
        if isinstance(leaf.statement.predicate, RoundPredicate)
    }
    _check_rounds(terms, entries, rounds, findings)
    _check_settlements(entries, statements, rounds, findings)
    return tuple(summaries)


def describe(summaries: Sequence[LedgerSummary]) -> str:
    """One line for the report."""
    if not summaries:
        return "there is nothing that a ledger could be held against"
    worst = max(summaries, key=lambda summary: summary.epsilon)
    how = _recomputed(summaries)
    return (
        f"{sum(summary.entries for summary in summaries)} entries of {len(summaries)} institutions "
        f"recomputed by {how}; most spent is epsilon {worst.epsilon:.4g} of {worst.budget:g} at "
        f"delta {worst.delta:g} ({worst.institution}); that noise was added is claimed, not shown"
    )


def uncharged(rounds: Sequence[RoundEvidence]) -> str:
    """Why a round of marks stands in no ledger, for the same line; empty where there is none."""
    if all(evidence.opened.kind != WATERMARK for evidence in rounds):
        return ""
    return (
        "; the round of marks costs nothing: what an owner adds is computed from the released "
        "adapter and its key, not from anybody's data"
    )


def _recomputed(summaries: Sequence[LedgerSummary]) -> str:
    """Which figures the verifier has from the events, and which are the institutions' word."""
    stated = sum(summary.pld_stated for summary in summaries)
    done = sum(summary.pld_recomputed for summary in summaries)
    if not stated:
        return "RDP"
    if done == stated:
        return "RDP and PLD"
    return f"RDP, {done} of {stated} figures stated by PLD too (all with --full)"


def _check_ledger(
    charter: CharterView,
    terms: PrivacyTerms,
    name: str,
    entries: Sequence[tuple[Leaf, PrivacyPredicate]],
    findings: Findings,
    reader: LedgerReader,
) -> LedgerSummary:
    for leaf, entry in entries:
        place = f"{leaf.place} (entry {entry.sequence} of {name})"
        problems = [*reader.read(entry, leaf.digest), *terms.problems(entry)]
        if entry.federation != charter.federation:
            problems.append(f"is of federation {entry.federation!r}")
        for problem in problems:
            findings.fail(place, problem)
    stated = sum(entry.cumulative.epsilon_pld is not None for _, entry in entries)
    return LedgerSummary(
        name,
        len(entries),
        reader.epsilon,
        terms.delta,
        terms.epsilon,
        stated,
        reader.recomputed,
    )


def _check_rounds(
    terms: PrivacyTerms,
    entries: Entries,
    rounds: Sequence[RoundEvidence],
    findings: Findings,
) -> None:
    """Whoever committed to an update had charged that round before its statement."""
    charged: set[tuple[str, int]] = set()
    logged: set[tuple[str, str]] = set()
    waiting = sorted(
        ((leaf, name, entry) for name, listed in entries.items() for leaf, entry in listed),
        key=lambda found: found[0].index,
        reverse=True,
    )
    # In the order of the log, so that what lies before a round's statement is known by then.
    for evidence in sorted(rounds, key=lambda one: one.index):
        while waiting and waiting[-1][0].index < evidence.index:
            leaf, name, entry = waiting.pop()
            logged.add((name, leaf.digest))
            if isinstance(entry.event, GaussianSteps | LatticeSteps):
                charged.add((name, entry.round))
        _check_carried(logged, evidence, findings)
        if evidence.opened.kind == WATERMARK:
            continue  # a function of the released adapter and of a key: nothing to charge
        _check_charged(charged, evidence, findings)
        _check_survivors(terms, entries, evidence, findings)


def _check_charged(
    charged: Container[tuple[str, int]], evidence: RoundEvidence, findings: Findings
) -> None:
    number = evidence.predicate.round
    senders = {
        entry.header.sender for kind in _COMMITTING for entry in evidence.transcript.of(kind)
    }
    for name in sorted(senders):
        if (name, number) not in charged:
            findings.fail(
                evidence.place,
                f"{name} committed to an update in round {number} without a charge in its ledger "
                "before",
            )


def _check_carried(
    logged: Container[tuple[str, str]], evidence: RoundEvidence, findings: Findings
) -> None:
    """The coordinator logs the entries that came with an UploadHash before it states the round."""
    for message in evidence.transcript.of("UploadHash"):
        name = message.header.sender
        for leaf in read_body(message, UploadHash).charges:
            if (name, hashlib.sha256(leaf).hexdigest()) not in logged:
                findings.fail(
                    evidence.place,
                    f"the log lacks a ledger entry before it that {name} sent with its UploadHash",
                )


def _check_survivors(
    terms: PrivacyTerms,
    entries: Entries,
    evidence: RoundEvidence,
    findings: Findings,
) -> None:
    """Where noise is shared, a sum that was opened carried at least the honest shares charged."""
    opened = _accepted(evidence, "Aggregate") if terms.mode in SHARING else {}
    if not opened:
        return
    fewest = min(opened.values())
    honest = fewest - terms.adversary.colluding
    for name, listed in sorted(entries.items()):
        for leaf, entry in listed:
            event = entry.event
            if (
                entry.round == evidence.predicate.round
                and isinstance(event, LatticeSteps)
                and event.honest_shares > honest
            ):
                findings.fail(
                    f"{leaf.place} (entry {entry.sequence} of {name})",
                    f"counts on {event.honest_shares} honest shares of noise; {fewest} updates "
                    f"were accepted, so {honest} may be honest",
                )


def _check_settlements(
    entries: Entries,
    statements: Mapping[int, tuple[int, RoundPredicate]],
    rounds: Sequence[RoundEvidence],
    findings: Findings,
) -> None:
    evidence_of = {evidence.predicate.round: evidence for evidence in rounds}
    for name, listed in sorted(entries.items()):
        charges = {entry.sequence: entry.event for _, entry in listed}
        for leaf, entry in listed:
            event = entry.event
            place = f"{leaf.place} (entry {entry.sequence} of {name})"
            # An institution may have crashed in a round that others completed, or that the
            # coordinator never came to state: nothing is wrong with "no result".
            if not isinstance(event, CompletedRound | CompletedSession) or entry.round == 0:
                continue
            if entry.round not in statements:
                findings.fail(place, f"settles round {entry.round}, which the log does not hold")
                continue
            if entry.round not in evidence_of:
                continue
            evidence = evidence_of[entry.round]
            if evidence.predicate.outcome != "completed":
                findings.fail(
                    place,
                    f"says round {entry.round} gave a result; it was {evidence.predicate.outcome}",
                )
                continue
            charged = charges.get(event.charge)
            most = charged.steps if isinstance(charged, GaussianSteps | LatticeSteps) else 1
            for problem in _settled_wrongly(event, evidence, most):
                findings.fail(place, problem)


def _settled_wrongly(
    event: CompletedRound | CompletedSession, evidence: RoundEvidence, charged: int
) -> Iterator[str]:
    """What the transcript shows otherwise than a settlement."""
    number, good = evidence.predicate.round, evidence.predicate.steps.good
    if isinstance(event, CompletedSession):
        if event.steps > charged:
            yield f"says {event.steps} steps of round {number} gave a result; {charged} are charged"
        if event.steps != good:
            yield f"says {event.steps} steps of round {number} gave a result; {good} did"
    cohorts = _accepted(evidence, "Cohort")
    found = min((size for step, size in cohorts.items() if step < good), default=0)
    if event.accepted != found:
        yield (
            f"says {event.accepted} updates were accepted in round {number}; the cohort has {found}"
        )


def _accepted(evidence: RoundEvidence, shown_by: str) -> dict[int, int]:
    """By step, how many updates the cohort holds; of the steps that have a message ``shown_by``."""
    shown = {entry.header.step for entry in evidence.transcript.of(shown_by)}
    return {
        entry.header.step: len(read_body(entry, Cohort).accepted)
        for entry in evidence.transcript.of("Cohort")
        if entry.header.step in shown
    }
