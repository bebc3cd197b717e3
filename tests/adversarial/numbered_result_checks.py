"""Checks of clients, steps 8 to 15, numbered (module ``mutations``)."""

from __future__ import annotations

from tests.adversarial.mutation import Mutation, off, swap

_COHORT = (
    off(
        "I1",
        "client_cohort.py",
        "not state.upload_set == cohort.upload_set == envelope.header.refers_to",
        "the cohort is of these uploads",
        "false-cohorts",
    ),
    off(
        "I2",
        "client_cohort.py",
        "both",
        "nobody is listed twice: never both kinds of shares",
        "double-listed-victim",
    ),
    off(
        "I3",
        "client_cohort.py",
        "not is_sorted_unique(cohort.accepted) or not is_sorted_unique(cohort.removed)",
        "lists hold each name once",
        "false-cohorts",
    ),
    off(
        "I4",
        "client_cohort.py",
        "accepted | removed != set(dealers)",
        "every dealer is in one list",
        "false-cohorts",
    ),
    off(
        "I5",
        "client_cohort.py",
        "not accepted <= uploaders",
        "only committed uploads are accepted",
        "false-cohorts",
    ),
    off(
        "I6",
        "client_cohort.py",
        "len(accepted) < min_accepted",
        "no sum isolates anybody",
        "lone-honest-client",
    ),
    swap(
        "I7",
        "client_cohort.py",
        "    state.hood.check_cohort(cohort)\n",
        "",
        "nobody hides behind few",
        "sparse-dropped-arc",
    ),
    swap(
        "I8",
        "client_cohort.py",
        "return Transition(voted, (persist, send))",
        "return Transition(voted, (send, persist))",
        "the vote is durable before it is sent",
        "honest",
    ),
    off(
        "I9",
        "client_cohort.py",
        "envelope.header.refers_to != state.cohort_hash",
        "the proof is of this cohort",
        "false-votes",
    ),
    off(
        "I10",
        "client_cohort.py",
        "vote.cohort_hash != state.cohort_hash",
        "votes for this cohort",
        "false-votes",
    ),
    off(
        "I11",
        "client_cohort.py",
        "len(members) < quorum",
        "a quorum of votes before any share",
        "two-quorums",
    ),
    swap(
        "I12",
        "client_cohort.py",
        "return Transition(unmasked, (persist, send))",
        "return Transition(unmasked, (send, persist))",
        "the reveal is durable before it is sent",
        "honest",
    ),
    swap(
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
    off(
        "J1",
        "client_result.py",
        "envelope.header.refers_to != state.cohort_hash",
        "the sum is of this cohort",
        "false-sums",
    ),
    off(
        "J2",
        "client_result.py",
        "aggregate.accepted != len(state.cohort.accepted)",
        "the sum's count",
        "false-sums",
    ),
    off("J3", "client_result.py", "words.size != values", "the sum's size", "false-sums"),
    off(
        "J4",
        "client_result.py",
        "(event.round, event.step) != (session.identity.round, session.step)",
        "results of this round",
        "slow-apply",
    ),
    swap(
        "J5",
        "client_result.py",
        "    check_place(envelope, context=session.context, step=last)\n",
        "",
        "the closing is of this round",
        "false-closings",
    ),
    off(
        "J6",
        "client_result.py",
        "closed.adapter_hash != session.identity.adapter_hash",
        "a void round changes nothing",
        "false-closings",
    ),
    off(
        "J7",
        "client_result.py",
        "isinstance(state, Applying) and last == session.step",
        "a late result is no reason to leave",
        "slow-apply",
    ),
    swap(
        "J8",
        "client_result.py",
        "    if done is None:\n",
        "    if done is None:\n        done = StepResult(last, bytes(32), closed.adapter_hash)\n"
        "    if False:\n",
        "no adapter without its sum",
        "closed-early",
    ),
    off(
        "J9",
        "client_result.py",
        "closed.adapter_hash != done.adapter_hash",
        "divergence is noticed",
        "diverging-clients",
    ),
    off(
        "J10",
        "client_result.py",
        "len(agreeing) < quorum",
        "a quorum of acknowledgements",
        "false-closings",
    ),
    swap(
        "J11",
        "client_result.py",
        "if ack.adapter_hash == adapter_hash and member.header.refers_to == aggregate_hash",
        "if ack.adapter_hash == adapter_hash",
        "acknowledgements of this sum",
        "false-closings",
    ),
    swap(
        "J12",
        "client_result.py",
        "if ack.adapter_hash == adapter_hash and member.header.refers_to == aggregate_hash",
        "if member.header.refers_to == aggregate_hash",
        "acknowledgements of this adapter",
        "false-closings",
    ),
)

_WITNESS = (
    swap(
        "K1",
        "witness.py",
        "        if seen.size:\n",
        "        if False:\n",
        "the log only grows",
        "split-log",
    ),
    swap(
        "K2",
        "witness.py",
        "        verify_inclusion(index,",
        "        (lambda *_: None)(index,",
        "the statement is in the log",
        "split-log",
    ),
    swap(
        "K3",
        "witness.py",
        "        opened = open_note(note, [log.key], strict=False)\n",
        "        from fedfm_crypto.note import parse_checkpoint\n"
        '        body = note.split(b"\\n\\n")[0] + b"\\n"\n'
        '        opened = type("N", (), {"checkpoint": parse_checkpoint(body)})\n',
        "the log's signature",
        "split-log",
    ),
    off(
        "K4",
        "split_view.py",
        "header.checkpoint != head",
        "everybody in a round was shown one head of the log",
        "two-histories",
    ),
    swap(
        "K5",
        "client_keys.py",
        "    members = one_history(context.open_set, session)(\n        roster.offers,",
        "    members = context.open_set(\n        roster.offers,",
        "the key roster shows one head, before any share leaves",
        "two-histories",
    ),
    off(
        "K6",
        "coordinator_inbox.py",
        "header.checkpoint != current.checkpoint",
        "the coordinator takes nothing that echoes another head",
        "two-histories-apart",
    ),
)

LATE: tuple[Mutation, ...] = (*_COHORT, *_RESULT, *_WITNESS)
