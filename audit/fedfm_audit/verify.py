"""The offline verifier: ten numbered steps over the files of one bundle.

::

    0  policy and charter signatures (founders' quorum)            steps/roots.py
    1  checkpoint signature and witness quorum                     steps/head.py
       (and its RFC 3161 time stamp, if it has one)                timestamp.py
    2  tree rebuilt from leaves, with every stored tile            steps/tree.py
    3  every envelope: signature, enrolled key, context, sequence  steps/leaves.py, envelopes.py
    4  state machine of every round replayed                       steps/history.py, replay.py,
       (shape, training round, key sum, key generation, epochs)    shape.py, training_round.py, ...
    5  adapter hash chain, and the adapter folder if given         steps/adapters.py
    6  privacy ledgers recomputed from their events                steps/privacy.py
       (not checkable where the charter's privacy mode is none)
    7  robust verdicts, sketch keys and binding checks             steps/robust.py
       (not checkable where the charter has no robust rule)
    8  ownership marks: commitments, and the owners' words        steps/watermark.py
       (not checkable where the charter has no watermark)
    9  coordinator's arithmetic repeated from a replay archive     steps/arithmetic.py
       (not checkable without one)

Each step judges by what the earlier ones established, so only a report whose steps 0 to 5 are all
verified says anything about the federation.  Nothing is ever fetched, unpacked to disk or
executed; hostile input ends in a failed step, never in a crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from fedfm_audit.archive import Archive
from fedfm_audit.bundle import read_bundle
from fedfm_audit.errors import ArchiveError, BundleError
from fedfm_audit.messages import KEYS, TRAIN
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.report import (
    Failure,
    MarkSummary,
    Report,
    RobustSummary,
    Status,
    StepResult,
    Summary,
    TrustRoots,
)
from fedfm_audit.statements import ConclusionPredicate, RoundPredicate
from fedfm_audit.steps.adapters import check_adapter, check_chain
from fedfm_audit.steps.arithmetic import check_arithmetic
from fedfm_audit.steps.envelopes import RoundEvidence, check_envelopes
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.head import Head, check_head
from fedfm_audit.steps.history import check_history
from fedfm_audit.steps.leaves import Leaf, check_leaves
from fedfm_audit.steps.privacy import check_privacy, describe, uncharged, why_not_checkable
from fedfm_audit.steps.replay import replay_round
from fedfm_audit.steps.robust import NO_RULE, check_verdicts
from fedfm_audit.steps.robust import describe as describe_verdicts
from fedfm_audit.steps.roots import Roots, check_roots
from fedfm_audit.steps.tree import Tree, check_tree
from fedfm_audit.steps.watermark import NO_MARKS, check_marks, has_marks
from fedfm_audit.steps.watermark import describe as describe_marks
from fedfm_audit.timestamp import check_timestamp

_T = TypeVar("_T")

_UNREAD_ROOTS = TrustRoots(charter="bundle", policy="bundle")


def verify_bundle(
    path: Path,
    *,
    policy: bytes | None = None,
    charter_sha256: str | None = None,
    adapter: Path | None = None,
    full: bool = False,
    replay: Path | None = None,
    replay_rounds: range | None = None,
    tsa_roots: bytes | None = None,
    openings: Sequence[bytes] = (),
) -> Report:
    """Verify a bundle folder or zip.

    Parameters
    ----------
    policy
        The auditor's own tlog-policy text.  Without it the keys come from the bundle, and the
        report says so.
    charter_sha256
        Hex SHA-256 of the charter payload that the auditor expects.
    adapter
        Folder with ``adapter_model.safetensors`` (and ``head.safetensors``) whose tensors must
        have the hash that the log ends with.
    full
        Recompute every figure of the privacy ledgers by privacy loss distribution too, which takes
        seconds for each distinct state of a ledger; without it only those of the last entries of
        the ledger that spent most, and what the budget cannot be judged without.
    replay
        Folder of a replay archive: repeat the coordinator's arithmetic from it.  Then the verdict
        needs step 9 too.
    replay_rounds
        Only of these rounds; all if not given.
    tsa_roots
        Certificates (PEM) of the time-stamping authorities that the auditor trusts: the bundle
        must have a time stamp of one of them over its checkpoint (part of step 1).
    openings
        Marks that their owners show (``fedfm_audit.watermark.commitment.Opening``, encoded): they
        are measured in ``adapter``. Then the verdict needs step 8 too.
    """
    try:
        files = read_bundle(path)
    except BundleError as error:
        failed = StepResult(
            0, Status.FAILED, "the bundle cannot be read", (Failure(str(path), str(error)),)
        )
        rest = (_not_checkable(number, "step 0 failed") for number in range(1, 10))
        asked = _asked(replay, openings)
        return Report(str(path), _UNREAD_ROOTS, None, (failed, *rest), asked)
    return verify_files(
        files,
        name=str(path),
        policy=policy,
        charter_sha256=charter_sha256,
        adapter=adapter,
        full=full,
        replay=replay,
        replay_rounds=replay_rounds,
        tsa_roots=tsa_roots,
        openings=openings,
    )


def verify_files(
    files: Mapping[str, bytes],
    *,
    name: str,
    policy: bytes | None = None,
    charter_sha256: str | None = None,
    adapter: Path | None = None,
    full: bool = False,
    replay: Path | None = None,
    replay_rounds: range | None = None,
    tsa_roots: bytes | None = None,
    openings: Sequence[bytes] = (),
) -> Report:
    """Verify the files of a bundle that is already in memory; see :func:`verify_bundle`."""
    run = _Run()
    roots = run.step0(files, policy, charter_sha256)
    head = run.step1(files, roots, tsa_roots)
    tree = run.step2(files, head)
    leaves, rounds = run.step3(files, roots, head, tree)
    run.step4(roots, leaves, rounds)
    last = run.step5(roots, leaves, rounds, adapter)
    run.step6(roots, leaves, rounds, full=full)
    robust = run.step7(roots, leaves, rounds)
    marks = run.step8(roots, leaves, rounds, adapter, openings)
    run.step9(roots, rounds, replay, replay_rounds)
    return Report(
        bundle=name,
        roots=_UNREAD_ROOTS if roots is None else roots.trust,
        summary=_summary(roots, tree, leaves, last),
        steps=tuple(run.results),
        asked=_asked(replay, openings),
        robust=robust,
        marks=marks,
    )


def _asked(replay: Path | None, openings: Sequence[bytes]) -> tuple[int, ...]:
    return (*((8,) if openings else ()), *(() if replay is None else (9,)))


def _not_checkable(number: int, reason: str) -> StepResult:
    return StepResult(number, Status.NOT_CHECKABLE, reason)


class _Run:
    """Runs the steps in order and keeps their results."""

    def __init__(self) -> None:
        self.results: list[StepResult] = []

    def step0(
        self, files: Mapping[str, bytes], policy: bytes | None, charter_sha256: str | None
    ) -> Roots | None:
        return self._record(
            0,
            lambda findings: check_roots(files, policy, charter_sha256, findings),
            lambda roots: (
                f"charter signed by {len(roots.charter.signers)} founders "
                f"(quorum {roots.charter.founders_quorum})"
            ),
        )

    def step1(
        self, files: Mapping[str, bytes], roots: Roots | None, tsa_roots: bytes | None
    ) -> Head | None:
        if roots is None:
            self._skip(1, 0)
            return None
        stamped = ""

        def check(findings: Findings) -> Head | None:
            nonlocal stamped
            head = check_head(files, roots, findings)
            if head is not None:
                stamped = check_timestamp(files, head.checkpoint, tsa_roots, findings)
            return head

        return self._record(
            1,
            check,
            lambda head: (
                f"size {head.checkpoint.size}, cosigned by {len(head.cosigned)} of "
                f"{len(roots.witnesses)} witnesses{stamped}"
            ),
        )

    def step2(self, files: Mapping[str, bytes], head: Head | None) -> Tree | None:
        if head is None:
            self._skip(2, 1)
            return None
        return self._record(
            2,
            lambda findings: check_tree(files, head, findings),
            lambda tree: f"{tree.size} leaves, root {tree.root(tree.size).hex()}",
        )

    def step3(
        self, files: Mapping[str, bytes], roots: Roots | None, head: Head | None, tree: Tree | None
    ) -> tuple[Sequence[Leaf], Sequence[RoundEvidence]]:
        if roots is None or head is None or tree is None:
            self._skip(3, 2)
            return (), ()

        def check(findings: Findings) -> tuple[Sequence[Leaf], Sequence[RoundEvidence]]:
            leaves = check_leaves(roots, head, tree, findings)
            return leaves, check_envelopes(files, roots, tree, leaves, findings)

        found = self._record(
            3,
            check,
            lambda found: (
                f"{len(found[0])} statements, "
                f"{sum(len(round_.transcript.entries) for round_ in found[1])} envelopes"
            ),
        )
        return found or ((), ())

    def step4(
        self, roots: Roots | None, leaves: Sequence[Leaf], rounds: Sequence[RoundEvidence]
    ) -> None:
        if roots is None or not leaves:
            self._skip(4, 3)
            return

        def check(findings: Findings) -> int:
            check_history(leaves, roots.charter, findings)
            replayed = {evidence.index for evidence in rounds}
            for leaf in leaves:
                is_round = isinstance(leaf.statement.predicate, RoundPredicate)
                if is_round and leaf.index not in replayed:
                    findings.fail(leaf.place, "no readable transcript to replay")
            for evidence in rounds:
                replay_round(evidence, roots.charter, findings)
            return len(rounds)

        self._record(4, check, lambda count: f"{count} rounds replayed")

    def step5(
        self,
        roots: Roots | None,
        leaves: Sequence[Leaf],
        rounds: Sequence[RoundEvidence],
        adapter: Path | None,
    ) -> str:
        if roots is None or not leaves:
            self._skip(5, 3)
            return ""

        def check(findings: Findings) -> str:
            last = check_chain(roots.charter, leaves, rounds, findings)
            if adapter is not None:
                check_adapter(adapter, last, findings)
            return last

        given = "the adapter folder given has it" if adapter else "no adapter folder was given"
        return self._record(5, check, lambda last: f"ends with {last}; {given}") or ""

    def step6(
        self,
        roots: Roots | None,
        leaves: Sequence[Leaf],
        rounds: Sequence[RoundEvidence],
        *,
        full: bool,
    ) -> None:
        if roots is None or not leaves:
            self._skip(6, 3)
            return
        charter = roots.charter
        reason = why_not_checkable(charter)
        held = any(isinstance(leaf.statement.predicate, PrivacyPredicate) for leaf in leaves)
        if reason is not None and not held:
            self.results.append(_not_checkable(6, reason))
            return
        self._record(
            6,
            lambda findings: check_privacy(charter, leaves, rounds, findings, full=full),
            lambda summaries: describe(summaries) + uncharged(rounds),
        )

    def step7(
        self, roots: Roots | None, leaves: Sequence[Leaf], rounds: Sequence[RoundEvidence]
    ) -> RobustSummary | None:
        if roots is None or not leaves:
            self._skip(7, 3)
            return None
        charter = roots.charter
        if not charter.robust:
            self.results.append(_not_checkable(7, NO_RULE))
            return None
        found = self._record(
            7,
            lambda findings: check_verdicts(charter, leaves, rounds, findings),
            describe_verdicts,
        )
        if self.results[-1].status is Status.VERIFIED and found is not None and not found.judged:
            self.results[-1] = _not_checkable(7, "no round came to a verdict")
        return found

    def step8(
        self,
        roots: Roots | None,
        leaves: Sequence[Leaf],
        rounds: Sequence[RoundEvidence],
        adapter: Path | None,
        openings: Sequence[bytes],
    ) -> MarkSummary | None:
        if roots is None or not leaves:
            self._skip(8, 3)
            return None
        charter = roots.charter
        if not charter.marked and not has_marks(leaves):
            self.results.append(_not_checkable(8, NO_MARKS))
            return None
        found = self._record(
            8,
            lambda findings: check_marks(charter, leaves, rounds, adapter, openings, findings),
            describe_marks,
        )
        return found if charter.marked else None

    def step9(
        self,
        roots: Roots | None,
        rounds: Sequence[RoundEvidence],
        replay: Path | None,
        asked: range | None,
    ) -> None:
        if replay is None:
            self.results.append(_not_checkable(9, "no replay archive was given"))
            return
        if roots is None or not rounds:
            self._skip(9, 3)
            return
        charter = roots.charter
        try:
            archive = Archive(replay)
        except ArchiveError as error:
            failed = Failure(str(replay), str(error))
            detail = "the archive cannot be read"
            self.results.append(StepResult(9, Status.FAILED, detail, (failed,)))
            return
        repeated = self._record(
            9,
            lambda findings: check_arithmetic(archive, charter, rounds, asked, findings),
            str,
        )
        if self.results[-1].status is not Status.VERIFIED or repeated is None:
            return
        if repeated.gaps:
            self.results[-1] = _not_checkable(9, str(repeated))
        elif not repeated.sums:
            self.results[-1] = _not_checkable(9, "no sum of these rounds was published")

    def _skip(self, number: int, failed: int) -> None:
        self.results.append(_not_checkable(number, f"step {failed} left nothing to check"))

    def _record(
        self,
        number: int,
        check: Callable[[Findings], _T | None],
        describe: Callable[[_T], str],
    ) -> _T | None:
        findings = Findings()
        product: _T | None = None
        try:
            product = check(findings)
        except Exception as error:  # a bug or a trick that no check foresaw must not pass
            findings.fail("verifier", f"stopped by {type(error).__name__}: {error}")
        detail = "" if product is None else describe(product)
        if findings.count:
            detail = f"{findings.count} failures"
        elif product is None:
            findings.fail("verifier", "the step ended without a result")
        status = Status.FAILED if findings.count else Status.VERIFIED
        self.results.append(StepResult(number, status, detail, findings.failures))
        return product


def _summary(
    roots: Roots | None, tree: Tree | None, leaves: Sequence[Leaf], last: str
) -> Summary | None:
    if roots is None or tree is None:
        return None
    predicates = [leaf.statement.predicate for leaf in leaves]
    rounds = [p for p in predicates if isinstance(p, RoundPredicate)]
    outcomes = Counter(p.outcome for p in rounds if p.kind == TRAIN)
    return Summary(
        federation=roots.charter.federation,
        charter=roots.charter.digest.hex(),
        leaves=tree.size,
        root=tree.root(tree.size).hex(),
        rounds_completed=outcomes["completed"],
        rounds_void=outcomes["void"],
        rounds_aborted=outcomes["aborted"],
        keys_made=sum(p.kind == KEYS and p.outcome == "completed" for p in rounds),
        concluded=any(isinstance(p, ConclusionPredicate) for p in predicates),
        adapter=last,
    )
