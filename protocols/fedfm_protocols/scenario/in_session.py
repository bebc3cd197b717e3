"""A scenario that was written for single rounds, played inside sessions.

Each of its rounds becomes a session of so many steps, and what its acts do is done in one of them.
What must follow is derived: the errors are the same; where the round ended without a result, the
session ends with the steps before, and nothing more is given out; where the round was completed,
all steps are good, and whoever was lost in one is left out of those after it.  What else is
different a round says itself (``in_session``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedfm_crypto.envelope import Envelope
from fedfm_protocols import errors
from fedfm_protocols.context import KEYS, WATERMARK
from fedfm_protocols.errors import RoundViolation, ScenarioError
from fedfm_protocols.scenario.acts import SETUP, ActForm
from fedfm_protocols.scenario.crashes import Crash, Leave
from fedfm_protocols.scenario.federations import client_names
from fedfm_protocols.scenario.form import (
    EVERYBODY,
    HONEST,
    OTHERS,
    ErrorForm,
    Expectation,
    RoundForm,
    Scenario,
)
from fedfm_protocols.simulation import Delivery
from fedfm_protocols.thresholds import MAX_COMPLETE_GRAPH

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

LEFT_OUT = "the round was completed without this site"


def in_session(scenario: Scenario, steps: int, step: int) -> Scenario:
    """The scenario in sessions of ``steps`` steps; its acts in step ``step`` of them, from 0.

    Raises
    ------
    ScenarioError
        if there is no such step, or the scenario is about sessions itself, or about robust rounds
        (which have one step).
    """
    if not 0 <= step < steps <= 1024:
        raise ScenarioError(f"step {step} of a session of {steps} steps; expected 0 to {steps - 1}")
    if steps == 1:
        return scenario
    if scenario.federation.session > 1:
        raise ScenarioError(f"{scenario.name} says itself what happens in which step of a session")
    if scenario.federation.robust:
        raise ScenarioError(f"{scenario.name} is robust: a validator judges rounds of one step")
    federation = scenario.federation.model_copy(update={"session": steps})
    rounds = [
        _round_in_session(scenario, one, bool(place), steps, step)
        for place, one in enumerate(scenario.rounds)
    ]
    return scenario.model_copy(update={"federation": federation, "rounds": rounds})


def _round_in_session(
    scenario: Scenario, one: RoundForm, comes_after: bool, steps: int, step: int
) -> RoundForm:
    if one.kind == KEYS:
        return one
    catch_up = [EVERYBODY] if comes_after and EVERYBODY not in one.catch_up else []
    if one.kind == WATERMARK:  # one step, whatever a round of training has
        return one.model_copy(update={"catch_up": [*one.catch_up, *catch_up]})
    acts = [_at_step(act, step) for act in one.acts]
    effect = step if any(not isinstance(act, ActForm) or act.of_a_step for act in acts) else 0
    holds = {
        "first" if step == 0 else "later",
        "last" if step + 1 == steps else "followed",
    }
    variants = [variant for variant in one.in_session if set(variant.when) <= holds]
    lost = [name for variant in variants for name in variant.lost]
    expect = _Derived(scenario, one, steps, effect, lost).expectation()
    for variant in variants:
        given = variant.expect.model_fields_set
        changed = {name: getattr(variant.expect, name) for name in given}
        expect = expect.model_copy(update=changed)
    changes = {"acts": acts, "expect": expect, "catch_up": [*one.catch_up, *catch_up]}
    return one.model_copy(update=changes)


def _at_step(act: Any, step: int) -> Any:
    if isinstance(act, ActForm):
        return act.model_copy(update={"step": step}) if act.of_a_step else act

    def told(stage: Stage, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        if header.type not in SETUP | {"RoundClose"} and header.step != step:
            return ((recipient, envelope),)
        tell: Callable[..., Sequence[Delivery]] = act
        return tell(stage, sender, recipient, envelope)

    told.__name__ = getattr(act, "__name__", type(act).__name__)
    return told


class _Derived:
    """What follows in a session of ``steps`` steps from the expectation of a single round, whose
    acts take effect in step ``effect``."""

    def __init__(
        self, scenario: Scenario, one: RoundForm, steps: int, effect: int, lost: list[str]
    ) -> None:
        federation, self.scenario, self.one = scenario.federation, scenario, one
        self.steps, self.effect, self.lost = steps, effect, lost
        self.roster = client_names(federation.clients)
        invited = self.roster if one.invited is None else tuple(one.invited)
        expect = one.expect
        missing = {n for n in invited if n not in (expect.accepted or invited)} | {*expect.absent}
        self.removed = list(expect.removed)
        self.present = [name for name in invited if name not in expect.absent]
        anything = [act for act in one.acts if isinstance(act, ActForm) and not act.about]
        if effect and anything:  # the key setup went well, so these are lost in the step
            self.removed = sorted({*expect.removed, *missing})
            self.present = list(invited)
        self.masked = federation.suite in ("masked", "layered")
        self.encrypted = federation.suite in ("sealed", "layered")
        self.complete_graph = federation.clients <= MAX_COMPLETE_GRAPH

    def expectation(self) -> Expectation:
        """The derived one."""
        expect = self.one.expect
        if expect.outcome == "lost":
            return expect
        if expect.outcome == "completed":
            return self._completed()
        return self._ended() if self.effect else expect

    def _ended(self) -> Expectation:
        """No result at a step that others came before: the session ends with those."""
        expect = self.one.expect
        released = expect.released_shares
        sent = {name: self._with_steps(name, kinds) for name, kinds in expect.sent.items()}
        changes = {
            "outcome": "completed",
            "good_steps": self.effect,
            "accepted": list(self.present),
            "released_shares": None if released is None else self._released() + released,
            # Who left the session has not taken the steps before either, and repeats them later.
            "behind": sorted({*expect.behind, *self._violators(), *self._killed()}),
            "sent": sent,
            "sum_exact": None,
        }
        return expect.model_copy(update=changes)

    def _completed(self) -> Expectation:
        """All steps are good, with whoever is left."""
        expect = self.one.expect
        removed = self.removed
        accepted = expect.accepted or [n for n in self.present if n not in removed]
        behind, found, last = list(expect.behind), list(expect.errors), self.steps - 1
        released = expect.released_shares
        changes: dict[str, Any] = {
            "sent": {name: kinds for name, kinds in expect.sent.items() if "Upload" not in kinds},
            "removed": removed,
        }
        closing = all(
            isinstance(act, ActForm) and act.about == "RoundClose" for act in self.one.acts
        )
        if self.effect < last and not (closing and self.one.acts):
            lost = sorted({*self.lost, *expect.dissenters, *(n for n in behind if n in accepted)})
            out = [n for n in removed if n in self.scenario.honest and n not in behind]
            if out:
                found.append(ErrorForm(by=out, error="RoundRefused", text=LEFT_OUT))
            behind = sorted({*behind, *out})
            changes |= {
                "accepted": [name for name in accepted if name not in lost],
                "removed": lost if self.effect + 1 == last else [],
                "dissenters": [],
                "reason": "" if expect.dissenters else expect.reason,
                "behind": behind,
                "errors": found,
            }
            nobody = not removed and not lost
            whole = released is not None and nobody and released == self._released(1)
            changes["released_shares"] = self._released(self.steps) if whole else None
        elif released is not None:
            changes["released_shares"] = self._released(last) + released
        return expect.model_copy(update=changes)

    def _released(self, steps: int | None = None) -> int:
        """Shares that honest clients give out in steps where nothing happens."""
        times = self.effect if steps is None else steps
        honest = [name for name in self.present if name in self.scenario.honest]
        return times * len(honest) * len(self.present) if self.masked else 0

    def _violators(self) -> set[str]:
        """The honest clients that leave the round over what is done."""
        listed = {name for error in self.one.expect.errors for name in error.by}
        honest = [name for name in self.present if name in self.scenario.honest]
        found: set[str] = set()
        for error in self.one.expect.errors:
            if not issubclass(getattr(errors, error.error), RoundViolation):
                continue
            for name in error.by:
                others = [n for n in honest if n not in listed]
                found |= {*({HONEST: honest, OTHERS: others}.get(name, [name]))}
        return found & set(honest)

    def _killed(self) -> set[str]:
        """The clients whose process dies."""
        killed = {act.client for act in self.one.acts if isinstance(act, Crash | Leave)}
        return killed & set(self.scenario.honest)

    def _with_steps(self, name: str, kinds: list[str]) -> list[str]:
        """What a client sent, with the steps before."""
        before = [kind for kind in kinds if kind in SETUP]
        opens = self.encrypted and name in self.roster[: self.scenario.federation.colluding + 1]
        step = [
            "UploadHash",
            *(["WrappedKey"] if self.encrypted else []),
            "Upload",
            "CohortVote",
            "Unmask",
            *(["KeyOpening"] if opens else []),
            "RoundAck",
        ]
        return [*before, *step * self.effect, *kinds[len(before) :]]
