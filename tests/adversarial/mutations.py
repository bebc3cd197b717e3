"""Every security check of the protocol, numbered, and what switches it off.

A mutation is a change of one line of a *copy* of ``fedfm_protocols``; the copy plays the shipped
scenarios in a process of its own.  A mutation counts as caught if the honest scenario still runs
as expected and another one no longer does.  ``python -m tests.adversarial.mutations [ID ...]``
tries all of them, or some.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "protocols" / "fedfm_protocols"
# Plays the scenarios named until one is not as expected; its name is the last line.
PLAYER = """
import sys
import fedfm_protocols
assert fedfm_protocols.__file__.startswith(sys.argv[1]), fedfm_protocols.__file__
from fedfm_protocols.scenario.library import shipped, shipped_names
from fedfm_protocols.scenario.runner import run_scenario
first = [name for name in sys.argv[2:] if name]
for name in ["honest", *first, *(n for n in shipped_names() if n not in first)]:
    try:
        lines = [f"{l.what}: {l.found}" for l in run_scenario(shipped(name)).verdict.failures]
    except Exception as error:
        lines = [f"{type(error).__name__}: {error}"]
    if lines:
        print(lines[0][:200])
        print(name)
        break
else:
    print("-")
"""


@dataclass(frozen=True, slots=True)
class Mutation:
    """Check ``id`` of ``file``: ``text`` occurs once and becomes ``replacement``.

    ``scenario`` is tried first; any other may catch it too.
    """

    id: str
    file: str
    text: str
    replacement: str
    defends: str
    scenario: str

    def apply(self, package: Path) -> None:
        """Change the copy of the package.

        Raises
        ------
        LookupError
            if the text does not occur exactly once: the check has moved, and so must its entry.
        """
        path = package / self.file
        source = path.read_text("utf-8")
        if source.count(self.text) != 1:
            raise LookupError(
                f"{self.id}: {self.text!r} occurs {source.count(self.text)} times in {self.file}"
            )
        changed = source.replace(self.text, self.replacement)
        compile(changed, self.file, "exec")
        path.write_text(changed, "utf-8")


def _off(
    id: str, file: str, condition: str, defends: str, scenario: str, note: str = ""
) -> Mutation:
    """The check that raises if ``condition`` holds never raises."""
    return Mutation(id, file, f"if {condition}:{note}", f"if False:{note}", defends, scenario)


def _swap(id: str, file: str, text: str, other: str, defends: str, scenario: str) -> Mutation:
    return Mutation(id, file, text, other, defends, scenario)


_CHECKS = (
    _swap(
        "A1",
        "checks.py",
        "    try:\n        envelope.verify(key)",
        "    try:\n        pass",
        "signatures and body hashes",
        "corrupted-bytes",
    ),
    _off(
        "A2",
        "checks.py",
        "header.context != context",
        "binding to one round",
        "replay-across-rounds",
    ),
    _off("A3", "checks.py", "header.step != step", "binding to one step", "false-upload-sets"),
    _off("A4", "checks.py", "sender <= last", "one member per sender", "false-votes"),
    _off("A5", "checks.py", "sender not in allowed", "who may be in a set", "false-votes"),
    _swap(
        "A6",
        "checks.py",
        "        check_place(envelope, context=context, step=step)\n        verify_signature",
        "        verify_signature",
        "members of a set signed for this round",
        "false-votes",
    ),
    _swap(
        "A7",
        "checks.py",
        "        verify_signature(envelope, federation)\n        members",
        "        members",
        "signatures of the members of a set",
        "false-votes",
    ),
    _swap(
        "A8",
        "checks.py",
        "return all(a < b for a, b in pairwise(names))",
        "return True",
        "lists sorted and distinct",
        "false-cohorts",
    ),
    _swap(
        "A9",
        "checks.py",
        "    if key is None:\n",
        "    if key is None:\n        return\n    if False:\n",
        "strangers are not heard",
        "impersonation",
    ),
)

_OPENING = (
    _swap(
        "B1",
        "client.py",
        "if header.sender != federation.coordinator:",
        "if False:",
        "only the coordinator is heard by clients",
        "impersonation",
    ),
    _swap(
        "B2",
        "client.py",
        "    verify_signature(envelope, federation)\n    if header.type == type_name(RoundOpen)",
        "    if header.type == type_name(RoundOpen)",
        "the coordinator's signature",
        "corrupted-bytes",
    ),
    _swap(
        "B3",
        "client.py",
        "    _refuse_second(state, envelope)\n    if header",
        "    if header",
        "one body per type",
        "second-cohort",
    ),
    _off(
        "B4",
        "client.py",
        "taken == header.body_hash",
        "a resend is no second story",
        "replay-within-round",
    ),
    _off(
        "B5",
        "client.py",
        "of_this_round and header.step == session.step",
        "two bodies of one type are proof of two stories",
        "second-cohort",
    ),
    _swap(
        "B6",
        "client.py",
        "    if waited is not KeyRoster:  #",
        "    if False:  #",
        "every message is of this round",
        "replay-across-rounds",
    ),
    _off(
        "B7",
        "client.py",
        "isinstance(state, Training) and header.type == type_name(UploadSet)",
        "a site that trains too long drops its keys",
        "slow-training",
    ),
    _swap(
        "C1",
        "client_opening.py",
        "    check_place(envelope, context=context0, step=0)\n",
        "",
        "the opening is signed for what it says",
        "rounds-not-to-be-joined",
    ),
    _off(
        "C2",
        "client_opening.py",
        "opened.round <= memory.last_opened",
        "a round number is fresh",
        "differencing",
    ),
    _swap(
        "C3",
        "client_opening.py",
        "lambda: opened.steps == 1",
        "lambda: True",
        "one step",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C4",
        "client_opening.py",
        "lambda: opened.kind in ROUND_KINDS",
        "lambda: True",
        "known kinds",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C5",
        "client_opening.py",
        "lambda: opened.key_epoch == 0",
        "lambda: True",
        "the key epoch",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C6",
        "client_opening.py",
        "is_sorted_unique(opened.invited) and set(opened.invited) <= set(federation.clients)",
        "True",
        "invited are on the roster",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C7",
        "client_opening.py",
        "lambda: name in opened.invited",
        "lambda: True",
        "this site is invited",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C8",
        "client_opening.py",
        "lambda: len(opened.invited) >= thresholds.vote_quorum",
        "lambda: True",
        "a quorum is invited",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C9",
        "client_opening.py",
        "lambda: opened.config_hash == federation.config_hash",
        "lambda: True",
        "the charter's configuration",
        "rounds-not-to-be-joined",
    ),
    _swap(
        "C10",
        "client_opening.py",
        "lambda: bool(opened.checkpoint) or memory.checkpoint.size == 0",
        "lambda: True",
        "the log is not withheld",
        "split-log",
    ),
    _swap(
        "C11",
        "client_opening.py",
        "lambda: memory.completed < federation.charter.rounds",
        "lambda: True",
        "the charter's number of rounds",
        "charter-exhausted",
    ),
    _swap(
        "C12",
        "client_opening.py",
        "lambda: opened.adapter_hash == memory.adapter_hash",
        "lambda: True",
        "one adapter for all (model inconsistency)",
        "swapped-adapter",
    ),
    _swap(
        "C13",
        "client_opening.py",
        'effects += [Persist(opened.round, "opened", context0), send]',
        "effects += [send]",
        "the round number is durable before keys are offered",
        "honest",
    ),
    _off(
        "C14",
        "client_opening.py",
        "number == state.session.identity.round",
        "two openings of one round",
        "differencing",
    ),
    _swap(
        "C15",
        "client_opening.py",
        "    if opened.checkpoint:\n",
        "    if False:\n",
        "the log only grows",
        "split-log",
    ),
)

_KEYS = (
    _swap(
        "D1",
        "client_keys.py",
        "    check_place(envelope, context=fixed, step=session.step)\n",
        "",
        "the roster is signed for its own context",
        "false-key-rosters",
    ),
    _off(
        "D2",
        "client_keys.py",
        "members[site.name][0].encode() != state.offer",
        "own offer unchanged",
        "stolen-key",
    ),
    _swap(
        "D3",
        "client_keys.py",
        "    check_offers(offers, masked=federation.masked, steps=session.identity.steps)\n",
        "",
        "the keys on the roster",
        "false-key-rosters",
    ),
    _off("D4", "client_keys.py", "len(offers) < quorum", "a quorum of keys", "false-key-rosters"),
    _off(
        "D5",
        "client_keys.py",
        "not is_sorted_unique(dealers) or not set(dealers) <= set(state.hood.everyone)",
        "dealers are distinct and take part",
        "false-deliveries",
    ),
    _off(
        "D6", "client_keys.py", "len(dealers) < quorum", "a quorum of dealers", "false-deliveries"
    ),
    _off(
        "D7",
        "client_keys.py",
        "len(near) < state.hood.threshold",
        "enough neighbours dealt",
        "sparse-few-neighbours",
    ),
    _off(
        "D8",
        "client_keys.py",
        "tuple(entry.dealer for entry in delivery.shares) != near",
        "one entry per dealer nearby",
        "false-deliveries",
    ),
    _off(
        "D9", "client_keys.py", "site.name not in held", "own share came back", "false-deliveries"
    ),
    _swap(
        "D10",
        "client_keys.py",
        "    if site.name not in members:\n        raise RoundRefused(\"this site's key offer",
        "    if False:\n        raise RoundRefused(\"this site's key offer",
        "left out of the keys",
        "false-key-rosters",
    ),
    _off(
        "D11",
        "client_keys.py",
        "site.name not in dealers",
        "left out of the dealers",
        "false-deliveries",
    ),
    _swap(
        "D12",
        "client_keys.py",
        "    if site.name not in members:\n        raise RoundRefused(\"this site's graph nonce",
        "    if False:\n        raise RoundRefused(\"this site's graph nonce",
        "left out of the graph",
        "sparse-withheld-nonces",
    ),
    _swap(
        "E1",
        "offers.py",
        "        check_agreement_public(public)\n",
        "        pass\n",
        "valid points",
        "hostile-keys",
    ),
    _off(
        "E2",
        "offers.py",
        "len(offer.steps) != (steps if masked else 0)",
        "one key per step",
        "hostile-keys",
    ),
    _off(
        "E3",
        "offers.py",
        "public in own or public in owners",
        "no key serves two purposes",
        "hostile-keys",
    ),
    _off(
        "F1",
        "neighbourhood.py",
        "graph_commitment(context0, name, opened.nonce) != offers[name].graph_commitment",
        "nonces as committed",
        "sparse-withheld-nonces",
    ),
    _off(
        "F2",
        "neighbourhood.py",
        "withheld > MAX_WITHHELD",
        "few nonces withheld",
        "sparse-withheld-nonces",
    ),
    _swap(
        "F3",
        "neighbourhood.py",
        "        if alone:\n",
        "        if False:\n",
        "nobody hides behind few",
        "sparse-dropped-arc",
    ),
    _off(
        "G1",
        "shares.py",
        "commit(context, dealer, recipient, contents) != commitments",
        "shares fit what the dealer signed",
        "bad-shares",
    ),
    _swap(
        "G2",
        "shares.py",
        "        return expected == share_commitment(",
        "        return True or expected == share_commitment(",
        "a false share is pinned on its revealer",
        "false-reveals",
    ),
)

_UPLOADS = (
    _swap(
        "H1",
        "client_upload.py",
        "if (event.round, event.step) != (session.identity.round, session.step):",
        "if False:",
        "an update is never sent twice",
        "slow-training",
    ),
    _off(
        "H2",
        "client_upload.py",
        "event.update.size != expected",
        "the update's size",
        "bad-updates",
    ),
    _off(
        "H3",
        "client_upload.py",
        "site.name not in members",
        "left out of the uploads",
        "false-upload-sets",
    ),
    _off(
        "H4",
        "client_upload.py",
        "members[site.name][1].upload_hash != state.upload_hash",
        "own hash unchanged",
        "stolen-key",
    ),
    _off(
        "H5",
        "client_upload.py",
        "member.header.refers_to != expected",
        "everyone masked for the same dealers",
        "false-upload-sets",
    ),
    _off(
        "H6",
        "client_upload.py",
        "federation.masked and len(set(hashes)) != len(hashes)",
        "no copied upload",
        "copied-upload-let-through",
    ),
    _off("H7", "client_upload.py", "len(members) < needed", "enough uploads", "false-upload-sets"),
)

_COHORT = (
    _off(
        "I1",
        "client_cohort.py",
        "envelope.header.refers_to != state.upload_set",
        "the cohort is of these uploads",
        "false-cohorts",
    ),
    _off(
        "I2",
        "client_cohort.py",
        "both",
        "nobody is listed twice: never both kinds of shares",
        "double-listed-victim",
    ),
    _off(
        "I3",
        "client_cohort.py",
        "not is_sorted_unique(cohort.accepted) or not is_sorted_unique(cohort.removed)",
        "lists hold each name once",
        "false-cohorts",
    ),
    _off(
        "I4",
        "client_cohort.py",
        "accepted | removed != set(dealers)",
        "every dealer is in one list",
        "false-cohorts",
    ),
    _off(
        "I5",
        "client_cohort.py",
        "not accepted <= uploaders",
        "only committed uploads are accepted",
        "false-cohorts",
    ),
    _off(
        "I6",
        "client_cohort.py",
        "len(accepted) < min_accepted",
        "no sum isolates anybody",
        "lone-honest-client",
    ),
    _swap(
        "I7",
        "client_cohort.py",
        "    state.hood.check_cohort(cohort)\n",
        "",
        "nobody hides behind few",
        "sparse-dropped-arc",
    ),
    _swap(
        "I8",
        "client_cohort.py",
        "return Transition(voted, (persist, send))",
        "return Transition(voted, (send, persist))",
        "the vote is durable before it is sent",
        "two-quorums",
    ),
    _off(
        "I9",
        "client_cohort.py",
        "envelope.header.refers_to != state.cohort_hash",
        "the proof is of this cohort",
        "false-votes",
    ),
    _off(
        "I10",
        "client_cohort.py",
        "vote.cohort_hash != state.cohort_hash",
        "votes for this cohort",
        "false-votes",
    ),
    _off(
        "I11",
        "client_cohort.py",
        "len(members) < quorum",
        "a quorum of votes before any share",
        "two-quorums",
    ),
    _swap(
        "I12",
        "client_cohort.py",
        "return Transition(unmasked, (persist, send))",
        "return Transition(unmasked, (send, persist))",
        "the reveal is durable before it is sent",
        "two-quorums",
    ),
    _swap(
        "I13",
        "client_cohort.py",
        "            keys.append(RevealedShare(dealer, own.key, own.key_salt))",
        "            keys.append(RevealedShare(dealer, own.key, own.key_salt))\n"
        "        if dealer not in accepted:\n"
        "            seeds.append(RevealedShare(dealer, own.seed, own.seed_salt))",
        "exactly one share per dealer",
        "dropout-before-upload",
    ),
)

_RESULT = (
    _off(
        "J1",
        "client_result.py",
        "envelope.header.refers_to != state.cohort_hash",
        "the sum is of this cohort",
        "false-sums",
    ),
    _off(
        "J2",
        "client_result.py",
        "aggregate.accepted != len(state.cohort.accepted)",
        "the sum's count",
        "false-sums",
    ),
    _off("J3", "client_result.py", "words.size != values", "the sum's size", "false-sums"),
    _off(
        "J4",
        "client_result.py",
        "event.round != state.session.identity.round",
        "results of this round",
        "slow-apply",
    ),
    _swap(
        "J5",
        "client_result.py",
        "    check_place(envelope, context=session.context, step=session.step)\n",
        "",
        "the closing is of this round",
        "false-closings",
    ),
    _off(
        "J6",
        "client_result.py",
        "closed.adapter_hash != state.memory.adapter_hash",
        "a void round changes nothing",
        "false-closings",
    ),
    _off(
        "J7",
        "client_result.py",
        "isinstance(state, Applying)",
        "a late result is no reason to leave",
        "slow-apply",
    ),
    _swap(
        "J8",
        "client_result.py",
        "    if not isinstance(state, Acked):\n",
        "    if False:\n",
        "no adapter without its sum",
        "closed-early",
    ),
    _off(
        "J9",
        "client_result.py",
        "closed.adapter_hash != acked.adapter_hash",
        "divergence is noticed",
        "diverging-clients",
    ),
    _off(
        "J10",
        "client_result.py",
        "len(agreeing) < quorum",
        "a quorum of acknowledgements",
        "false-closings",
    ),
    _swap(
        "J11",
        "client_result.py",
        "if ack.adapter_hash == adapter_hash and member.header.refers_to == aggregate_hash",
        "if ack.adapter_hash == adapter_hash",
        "acknowledgements of this sum",
        "false-closings",
    ),
    _swap(
        "J12",
        "client_result.py",
        "if ack.adapter_hash == adapter_hash and member.header.refers_to == aggregate_hash",
        "if member.header.refers_to == aggregate_hash",
        "acknowledgements of this adapter",
        "false-closings",
    ),
)

_WITNESS = (
    _swap(
        "K1",
        "witness.py",
        "        if seen.size:\n",
        "        if False:\n",
        "the log only grows",
        "split-log",
    ),
    _swap(
        "K2",
        "witness.py",
        "        verify_inclusion(\n",
        "        (lambda *_: None)(\n",
        "the statement is in the log",
        "split-log",
    ),
    _swap(
        "K3",
        "witness.py",
        "        opened = open_note(note, [log.key], strict=False)\n",
        "        from fedfm_crypto.note import parse_checkpoint\n"
        '        opened = type("N", (), {"checkpoint": parse_checkpoint(note.split(b"\\n\\n")[0] + b"\\n")})\n',
        "the log's signature",
        "split-log",
    ),
)

_INBOX = (
    _off(
        "L1",
        "coordinator_inbox.py",
        "header.sender not in current.identity.invited",
        "only the invited are heard",
        "impersonation",
    ),
    _off(
        "L2",
        "coordinator_inbox.py",
        "earlier == header.body_hash",
        "a resend is no second message",
        "replay-within-round",
    ),
    _swap(
        "L3",
        "coordinator_inbox.py",
        "    check_place(envelope, context=current.context, step=current.step)\n",
        "",
        "messages of this round",
        "splice-other-federation",
    ),
    _off(
        "L4",
        "coordinator_inbox.py",
        "earlier is not None",
        "the first of two messages stands",
        "two-stories-by-client",
    ),
    _off(
        "L5",
        "coordinator_inbox.py",
        "header.type != type_name(expected)",
        "messages in order",
        "two-stories-by-client",
    ),
    _off(
        "L6",
        "coordinator_inbox.py",
        "graph_commitment(state.round.context0, sender, nonce.nonce) != offer.graph_commitment",
        "nonces as committed",
        "sparse-false-nonce",
    ),
    _swap(
        "L7",
        "coordinator_inbox.py",
        "if recipients != expected or any(len(e.commitments) != steps for e in bundle.shares):",
        "if any(len(e.commitments) != steps for e in bundle.shares):",
        "shares for every neighbour",
        "bad-shares",
    ),
    _swap(
        "L8",
        "coordinator_inbox.py",
        "if recipients != expected or any(len(e.commitments) != steps for e in bundle.shares):",
        "if recipients != expected:",
        "a commitment for every share",
        "bad-shares",
    ),
    _off(
        "L9",
        "coordinator_inbox.py",
        "envelope.header.refers_to != state.dealers_hash",
        "masked for these dealers",
        "false-uploads",
    ),
    _off(
        "L10",
        "coordinator_inbox.py",
        "other.header.body_hash == envelope.header.body_hash",
        "no copied upload",
        "copied-upload",
    ),
    _off(
        "L11",
        "coordinator_inbox.py",
        "state.hashes.get(sender) != envelope.header.body_hash",
        "uploads as committed",
        "false-uploads",
    ),
    _off(
        "L12",
        "coordinator_inbox.py",
        "envelope.header.refers_to != state.upload_set",
        "uploads for this set",
        "false-uploads",
    ),
    _off(
        "L13",
        "coordinator_inbox.py",
        "vote.cohort_hash != state.cohort_hash or envelope.header.refers_to != state.cohort_hash",
        "votes for this cohort",
        "false-votes-by-client",
    ),
    _off(
        "L14",
        "coordinator_inbox.py",
        "envelope.header.refers_to != state.cohort_hash",
        "shares for this cohort",
        "false-reveals",
        '\n        raise WrongContext(f"the shares',
    ),
    _swap(
        "L15",
        "coordinator_inbox.py",
        "    if wrong:\n",
        "    if False:\n",
        "false shares are refused and named",
        "false-reveals",
    ),
    _off(
        "L16",
        "coordinator_inbox.py",
        "envelope.header.refers_to != state.aggregate_hash",
        "acknowledgements of this sum",
        "false-votes-by-client",
    ),
    _swap(
        "L17",
        "coordinator_inbox.py",
        "    verify_signature(envelope, federation)\n",
        "",
        "clients' signatures",
        "corrupted-bytes",
    ),
    _swap(
        "M1",
        "summing.py",
        "                    repeated\n                    or entry",
        "                    entry",
        "a share counts once",
        "false-reveals",
    ),
    _swap(
        "M2",
        "summing.py",
        "or entry.dealer not in allowed\n",
        "or False\n",
        "one kind of share per dealer",
        "false-reveals",
    ),
    _swap(
        "M3",
        "summing.py",
        "if masking.seed_commitment(context0, dealer, self.step, seed) != expected:",
        "if False:",
        "a false seed is pinned on its dealer",
        "bad-shares",
    ),
    _swap(
        "M4",
        "summing.py",
        "if key.public != self.offers[dealer].steps[self.step].mask_key:",
        "if False:",
        "a false mask key is pinned on its dealer",
        "bad-shares",
    ),
    _swap(
        "M5",
        "summing.py",
        "    if len(upload.words) != expected * width:\n",
        "    if False:\n",
        "the upload's size",
        "false-uploads",
    ),
)

MUTATIONS: tuple[Mutation, ...] = (
    *_CHECKS, *_OPENING, *_KEYS, *_UPLOADS, *_COHORT, *_RESULT, *_WITNESS, *_INBOX,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutation: the scenario that failed (empty: none did) and how."""

    mutation: Mutation
    scenario: str
    symptom: str

    @property
    def caught(self) -> bool:
        """Whether an attack noticed that the check is gone, and honest runs did not."""
        return bool(self.scenario) and self.scenario != "honest"


def attempt(mutation: Mutation, *, only_first: bool = False) -> Outcome:
    """Play the scenarios on a copy of the package without this check.

    ``only_first`` plays the honest scenario and the one that the entry names, to save time.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "fedfm_protocols"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        mutation.apply(copy)
        if only_first:
            _keep_scenarios(copy, {"honest", mutation.scenario})
        played = subprocess.run(
            [sys.executable, "-c", PLAYER, folder, mutation.scenario],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((folder, str(REPOSITORY / "crypto")))},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    if played.returncode:
        raise RuntimeError(f"{mutation.id}: the player died:\n{played.stderr[-2000:]}")
    symptom, _, name = played.stdout.strip().rpartition("\n")
    return Outcome(mutation, "" if name == "-" else name, symptom)


def _keep_scenarios(package: Path, names: Iterable[str]) -> None:
    for path in (package / "scenarios").glob("*.toml"):
        if path.stem not in names:
            path.unlink()


def main(arguments: Sequence[str]) -> int:
    """Try mutations and print a line for each."""
    chosen = [m for m in MUTATIONS if not arguments or m.id in arguments]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, chosen))
    for outcome in outcomes:
        word = f"caught by {outcome.scenario}" if outcome.caught else "NOT CAUGHT"
        print(f"{outcome.mutation.id:<4} {outcome.mutation.defends:<55} {word}: {outcome.symptom}")
    caught = sum(outcome.caught for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} mutations caught")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
