"""Checks that join the steps of a session, numbered (module ``mutations``).

Not here, because no message reaches it: ``catchup._verify`` with more sums than the round had
steps (acknowledgements of a step that never was do not exist);
``tests/adversarial/test_session_secrets.py`` has it.
"""

from __future__ import annotations

from tests.adversarial.mutation import Mutation, off, swap

_CLIENTS = (
    swap(
        "Q1",
        "context.py",
        "        aggregate_hash,\n        adapter_hash,\n        *graph,\n",
        "        *graph,\n",
        "an upload names the sum and the adapter that it builds on",
        "session-two-sums",
    ),
    swap(
        "Q2",
        "steps.py",
        "    if before is None:\n",
        "    if True:\n",
        "the hashes of a later step build on the step before",
        "session-other-adapter",
    ),
    swap(
        "Q3",
        "client_upload.py",
        "        allowed=frozenset(state.dealers),\n",
        "        allowed=federation.clients,\n",
        "only who takes part in a step uploads in it",
        "session-left-out",
    ),
    swap(
        "Q4",
        "client_cohort.py",
        "state.hood, accepted, state.later\n",
        "state.hood, (*accepted, *state.cohort.removed), state.later\n",
        "who was removed is left out of the steps that follow",
        "session-honest",
    ),
    swap(
        "Q5",
        "steps.py",
        "            held={name: shares for name, shares in self.held.items() if name in names},\n",
        "            held=self.held,\n",
        "shares of who was left out are erased",
        "session-honest",
    ),
    swap(
        "Q6",
        "client_cohort.py",
        "    if state.later and context.site.name in accepted:\n",
        "    if state.later:\n",
        "who was removed trains no further",
        "session-left-out",
    ),
    swap(
        "Q7",
        "client_states.py",
        "        return replace(self, step=self.step + 1, taken={})\n",
        "        return replace(self, taken={})\n",
        "a step has a number of its own",
        "session-honest",
    ),
    swap(
        "Q8",
        "steps.py",
        "            {dealer: contents.steps[step] for dealer, contents in held.items()},\n",
        "            {dealer: contents.steps[0] for dealer, contents in held.items()},\n",
        "every step has shares of its own",
        "session-honest",
    ),
    swap(
        "Q9",
        "steps.py",
        "            secrets.steps[step],\n",
        "            secrets.steps[0],\n",
        "every step has masks of its own",
        "session-honest",
    ),
    swap(
        "Q10",
        "client_result.py",
        "    done = next((result for result in session.done if result.step == last), None)\n",
        "    done = session.done[-1] if session.done else None\n",
        "a session ends at a step that this site has finished",
        "session-closings",
    ),
    swap(
        "Q11",
        "client_states.py",
        "        return replace(self, done=(*self.done, result)[-2:])\n",
        "        return replace(self, done=(*self.done, result))\n",
        "no more than one step is undone",
        "session-closings",
    ),
)

_COORDINATOR = (
    swap(
        "R1",
        "coordinator_phases.py",
        "        if agreeing < quorum:\n",
        "        if False:\n",
        "no step builds on one that no quorum acknowledged",
        "session-other-adapter",
    ),
    swap(
        "R2",
        "coordinator_phases.py",
        "        names = [name for name in names if before.adapter_of(name) == agreed]\n",
        "",
        "only who acknowledged the adapter trains on it",
        "session-other-adapter",
    ),
    off(
        "R3",
        "coordinator_inbox.py",
        "adapter is None",
        "no upload without an acknowledgement of the step before",
        "session-other-adapter",
    ),
    swap(
        "R4",
        "coordinator_results.py",
        "    group = state.group.only(state.cohort.accepted)\n",
        "    group = state.group\n",
        "who was removed is not waited for, or heard, any more",
        "session-out-of-turn",
    ),
    swap(
        "R5",
        "coordinator_speech.py",
        "    return pending.good(adapter, good) if agreeing >= quorum else good\n",
        "    return pending.good(adapter, good) if agreeing else good\n",
        "a session ends at a step that a quorum acknowledged",
        "session-honest",
    ),
    swap(
        "R6",
        "coordinator_speech.py",
        "    if good is not None:\n",
        "    if False:\n",
        "the good steps of a session stand",
        "session-honest",
    ),
    swap(
        "R7",
        "coordinator_round.py",
        "            aggregates=(*(earlier.aggregates if earlier else ()), self.aggregate),\n",
        "            aggregates=(self.aggregate,),\n",
        "catching up repeats the sums of all good steps",
        "session-honest",
    ),
    swap(
        "R8",
        "coordinator_inbox.py",
        "            return before.everyone if kind == type_name(RoundAck) else group.bundles\n",
        "            return before.everyone\n",
        "a removed client acknowledges, and does no more",
        "session-out-of-turn",
    ),
)

SESSIONS: tuple[Mutation, ...] = (*_CLIENTS, *_COORDINATOR)
