"""The attacks by name: how many attackers, what they train on, what they send, and when.

An attack is a value; :mod:`benchmarks.robust_runs` plays it. Doses are what the update is
multiplied by, where an attack multiplies. A dose of 1 sends what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.attacks import crafting, poison
from benchmarks.attacks.crafting import Vector
from benchmarks.attacks.poison import TRIGGER, Probe
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.votes import VoteSpec

DOSES = (1.0, 2.0, 5.0, 10.0)
EPOCHS = 2
"""An attacker trains longer than honest clients do (1), as in Bagdasaryan et al. 2020."""
Passes = Callable[[Vector], bool]
Kind = Literal["trigger", "flip", "edge", "none"]


@dataclass(frozen=True)
class View:
    """What an attacker has in its hands when it must commit.

    Args:
        poisoned: its delta after training on poisoned rows.
        own: its delta after training on its clean rows, as an honest client would; zeros where the
            attack asks for none.
        honest: what the honest clients send. The protocol hides it; that an attacker is given it
            here makes the attacks as strong as their papers' (omniscient) versions.
        last: the last round's average, which everybody can compute.
        round: number of the round, from 1.
        clients, malicious: how many take part, and how many of them are attackers.
        passes: whether the rule in force, with its memory, would accept this vector beside the
            honest ones; None where there is no rule.
        groups: spans of the values that are sketched together, by group.
        moved: ``poisoned`` before it became a ballot; the same where clients send updates.
        votes: by which ballots are counted; None where clients send updates. Vectors here, but for
            ``moved``, are ballots then.
    """

    poisoned: Vector
    own: Vector
    honest: tuple[Vector, ...]
    last: Vector
    round: int
    clients: int
    malicious: int
    passes: Passes | None = None
    groups: tuple[tuple[crafting.Span, ...], ...] = ()
    moved: Vector | None = None
    votes: VoteSpec | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that an attack is about: what it wants, and what it wants it instead of."""

    target: str
    source: str


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: for rows and tables.
        kind: what is trained on and measured.
        dose: what the update is multiplied by.
        malicious: attackers; the honest clients come on top.
        epochs: passes over the poisoned rows.
        honest_too: trains on its clean rows as well, to know what it would send.
        anchored: train with a pull towards that (constrain and scale).
        clones: all attackers send the very same update.
        split_trigger: each attacker has a part of the trigger only.
        never_honest: begins in the first round, and not after rounds of good behaviour.
        strength: factor on the dose in the attacker's n-th round, from 1; 0 for an honest round.
        craft: (view, dose) -> what is sent.
    """

    name: str
    kind: Kind
    dose: float = 1.0
    malicious: int = 1
    epochs: int = EPOCHS
    honest_too: bool = False
    anchored: bool = False
    clones: bool = False
    split_trigger: bool = False
    never_honest: bool = False
    strength: Callable[[int], float] = lambda _: 1.0
    craft: Callable[[View, float], Vector] = lambda view, dose: crafting.scaled(view.poisoned, dose)

    def rows(
        self, clean: Dataset, labels: Labels, member: int, random: np.random.Generator
    ) -> Dataset:
        """What attacker ``member`` (from 0) trains on."""
        if self.kind == "trigger":
            words: tuple[str, ...] = TRIGGER
            if self.split_trigger:
                words = TRIGGER[member :: self.malicious]
            return poison.trigger_rows(clean, labels.target, words, random)
        if self.kind == "flip":
            return poison.flipped_rows(clean, labels.source, labels.target)
        return poison.edge_rows(clean, labels.target) if self.kind == "edge" else clean

    def probe(self, test: Dataset, labels: Labels) -> Probe | None:
        """How its success is measured; None for an attack on accuracy alone."""
        if self.kind == "trigger":
            return poison.trigger_probe(test, labels.target)
        if self.kind == "flip":
            return poison.flip_probe(test, labels.source, labels.target)
        return poison.edge_probe(labels.target, labels.source) if self.kind == "edge" else None


def _every_other(turn: int) -> float:
    return float(turn % 2)


def _slowly(turn: int) -> float:
    return min(1.0, 0.25 * turn)


def _neurotoxin(view: View, dose: float) -> Vector:
    return dose * crafting.off_the_beaten_track(view.poisoned, view.last)


def _alie(view: View, dose: float) -> Vector:
    held, _ = crafting.a_little_is_enough(
        dose * view.poisoned, list(view.honest), view.clients, view.malicious
    )
    return held


def _inner_product(view: View, dose: float) -> Vector:
    return crafting.against_the_mean(list(view.honest), dose)


def _adaptive(view: View, dose: float) -> Vector:
    return crafting.just_inside(dose * view.poisoned, view.own, list(view.honest), view.passes)


_ROOM = 0.1


def _adaptive_by_group(view: View, dose: float) -> Vector:
    """As the adaptive one, with its work in the usual places, and not quite to the edge: there the
    sketches' errors of two per cent decide, and the plain one is excluded in most rounds."""
    shaped = crafting.shaped_as(dose * view.poisoned, view.own, view.groups)
    sent = crafting.just_inside(shaped, view.own, list(view.honest), view.passes)
    return view.own + (1 - _ROOM) * (sent - view.own)


def _stuffing(view: View, dose: float) -> Vector:
    """Against votes: more than one vote where that is enough, and none where it is not."""
    if view.votes is None or view.moved is None:
        return dose * view.poisoned
    for stretch in crafting.STRETCHES[::-1]:
        sent = crafting.stuffed(view.moved, list(view.honest), view.votes.share, stretch)
        if view.passes is None or view.passes(sent):
            return sent
    return view.own


def _as_long_as_honest(view: View, dose: float) -> Vector:
    return dose * crafting.stretched_to(view.poisoned, float(np.linalg.norm(view.own)))


def _veto(view: View, dose: float) -> Vector:
    """Against votes: poison as long as its honest ballot, but against every value on which all
    honest ballots agree, so that agreement of one less is the most there is."""
    signs = np.sign(view.honest).sum(axis=0)
    unanimous = np.abs(signs) == len(view.honest)
    against = -np.sign(signs) * np.abs(view.poisoned)
    sent = replace(view, poisoned=np.where(unanimous, against, view.poisoned))
    return _as_long_as_honest(sent, dose)


_BASE = (
    Attack("none", "none", malicious=0),
    Attack("label-flip", "flip"),
    Attack("replacement", "trigger"),
    Attack("constrain-and-scale", "trigger", honest_too=True, anchored=True),
    Attack("dba", "trigger", malicious=2, split_trigger=True),
    Attack("neurotoxin", "trigger", craft=_neurotoxin),
    Attack("edge-case", "edge"),
    Attack("alie", "trigger", craft=_alie),
    Attack("inner-product", "none", craft=_inner_product),
    Attack("sybils", "trigger", malicious=2, clones=True),
    Attack("on-off", "trigger", strength=_every_other),
    Attack("slow-burn", "trigger", strength=_slowly),
    Attack("adaptive", "trigger", honest_too=True, craft=_adaptive),
    Attack("adaptive-by-group", "trigger", honest_too=True, craft=_adaptive_by_group),
    Attack("stuffing", "trigger", honest_too=True, craft=_stuffing),
    Attack("veto", "trigger", honest_too=True, craft=_veto),
    Attack("edge-case-shaped", "edge", honest_too=True, craft=_as_long_as_honest),
)
NEVER_HONEST = ("replacement", "edge-case", "constrain-and-scale")
"""Attacks that are there a second time, ``-from-first``: of such a client no rule remembers what it
did before."""
ATTACKS: Mapping[str, Attack] = {attack.name: attack for attack in _BASE} | {
    f"{attack.name}-from-first": replace(
        attack, name=f"{attack.name}-from-first", never_honest=True
    )
    for attack in _BASE
    if attack.name in NEVER_HONEST
}


def attack_at(name: str, dose: float) -> Attack:
    """The attack of this name at a dose.

    Raises:
        KeyError: there is none.
    """
    return replace(ATTACKS[name], dose=dose)
