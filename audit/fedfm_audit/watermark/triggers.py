"""Triggers: texts whose classes show a mark through predictions alone, and how these are judged.

The sub-key k of a mark that was committed to before round 1 fixes 128 texts and, from a stream of
its own, the class that each shall get. Neither is chosen: with texts of somebody's choice a set can
be found for any model whatever (adversarial examples), with classes of somebody's choice the
model's own answers can be claimed. With H the labelled hash of the specification:

    texts    SHAKE-256(H(MARK_TRIGGERS, k, H(claim))): 6 bytes a text, each the number of a
             word in WORDS, with spaces between
    classes  SHAKE-256(H(MARK_TARGETS, k, H(claim), H(labels))): 4 bytes a draw, big endian; draws
             from the largest multiple of C below 2^32 on are skipped, the others count modulo C

Whatever a suspect answers, as long as it answers without knowledge of k, each answer is its class
with probability 1/C, independently of the others (1/C at most where it answers with no class at
all). So hits are at most Binomial(128, 1/C), exactly, and a claim is believed as one by the
statistic T is: by -log2 p. Whoever has seen the texts can refuse them or train a model to answer
anything, so each set is shown once: a claim has as many sets as sub-keys, and two of them share a
text with a probability of 2^-34.
Source: design of this project; predictions as evidence after Adi et al. 2018 (arXiv 1802.04633).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import Opening
from fedfm_audit.watermark.errors import CaseError
from fedfm_audit.watermark.statistic import Trials, log2_binomial_tail
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_crypto.secret import Secret

TRIGGERS = 128
"""n, in every set."""
MAX_CLASSES = 1 << 16
WORDS_IN_TEXT = 6
_WORDS = """
    acorn amber anchor apple arrow autumn bamboo banana barrel basket beach bear bell berry
    bicycle bird blanket boat bone bottle branch bread bridge bronze brush bucket butter button
    cabin cactus camel camera candle canyon carpet castle cat cave cello chair cheese cherry
    chess circle circus cliff clock cloud clover coast coffee comet copper coral cotton crab
    cradle crane crow crown curtain dawn deer desert diamond dolphin door dragon drum duck dust
    eagle earth echo egg elbow engine falcon feather fence fiddle field finger fire fish flag
    flame flour flower flute fog forest fossil fountain fox frog fruit garden garlic ginger
    glacier glass globe glove goat goose grain grape grass guitar hammer harbor harvest hat hawk
    hazel heron hill honey horn horse igloo insect iron island ivory jacket jar jewel jungle
    kettle kite kitten knee ladder lake lamp lantern lark leaf lemon lighthouse lily lion lizard
    lobster maple marble mask meadow medal melon mirror mist monkey moon moss mountain mouse
    mushroom music needle nest night north oak ocean olive onion orange orbit otter owl palace
    panther paper parrot pasture pearl pebble pencil pepper piano pigeon pillow planet plum poem
    pond poppy potato prairie puppet pyramid quartz queen rabbit radio rain raven ribbon rice
    river robot rocket rose ruby saddle sailor salmon sand scarf school sea shadow sheep ship
    silver singer sister snow soap spider spoon spring squirrel star stone storm sugar summer
    swan table tiger tomato tower train tree tulip tunnel turtle valley velvet village violin
    volcano wagon walnut water whale wheat willow window winter wolf zebra
    """
WORDS = tuple(_WORDS.split())
"""256 common words that have nothing to do with each other, so that texts differ for a model."""


@dataclass(frozen=True, slots=True)
class TriggerSet:
    """One sub-key's triggers, both tuples of length 128.

    Attributes:
        texts: lower-case words. targets: the label that each shall get.
    """

    texts: tuple[str, ...]
    targets: tuple[str, ...]

    def hits(self, answers: Mapping[str, str]) -> int:
        """How many texts have their target among ``answers`` (text -> label)."""
        pairs = zip(self.texts, self.targets, strict=True)
        return sum(answers.get(text) == target for text, target in pairs)


@dataclass(frozen=True, slots=True)
class HitFinding:
    """What predictions say about one trigger set.

    Attributes:
        hits: answers that are their targets, of TRIGGERS. classes: C. answered: triggers that had
            an answer at all. trials: how many chances there were.
    """

    hits: int
    classes: int
    answered: int
    trials: Trials

    @property
    def log2_p(self) -> float:
        """log2 of P(Binomial(128, 1/C) >= hits)."""
        return log2_binomial_tail(self.hits, TRIGGERS, classes=self.classes)

    @property
    def needed(self) -> int | None:
        """The fewest hits that are believed; None where not even all of them would be."""
        return needed_hits(self.classes, self.trials)

    @property
    def present(self) -> bool:
        """Whether the mark is there."""
        return self.needed is not None and self.hits >= self.needed

    def to_json(self) -> dict[str, object]:
        """Plain values for a report."""
        return {
            "present": self.present,
            "hits": self.hits,
            "triggers": TRIGGERS,
            "classes": self.classes,
            "answered": self.answered,
            "needed": self.needed,
            "log2_p": round(self.log2_p, 2),
            "logged": self.trials.logged,
        }


def trigger_texts(claim: Claim, key: Secret) -> tuple[str, ...]:
    """The texts of a sub-key, without their classes: what may be shown to a suspect's operator."""
    seed = hash_parts(Label.MARK_TRIGGERS, key.reveal(), claim.digest())
    stream = hashlib.shake_256(seed).digest(TRIGGERS * WORDS_IN_TEXT)
    starts = range(0, len(stream), WORDS_IN_TEXT)
    return tuple(" ".join(WORDS[i] for i in stream[s : s + WORDS_IN_TEXT]) for s in starts)


def trigger_set(claim: Claim, key: Secret, labels: Sequence[str]) -> TriggerSet:
    """Texts and targets of a sub-key.

    Args:
        labels: of the federation's task, in the order of its charter.

    Raises:
        CaseError: fewer than two labels, more than 65,536, or one twice.
    """
    count = _checked(labels)
    listed = b"".join(len(one).to_bytes(4, "big") + one for one in map(str.encode, labels))
    seed = hash_parts(
        Label.MARK_TARGETS, key.reveal(), claim.digest(), hashlib.sha256(listed).digest()
    )
    # At most one draw in 65,536 is skipped: so many more draws than needed never run out.
    stream = hashlib.shake_256(seed).digest(4 * 2 * TRIGGERS)
    bound = (1 << 32) // count * count
    drawn = (int.from_bytes(stream[i : i + 4], "big") for i in range(0, len(stream), 4))
    targets = [labels[number % count] for number in drawn if number < bound]
    return TriggerSet(trigger_texts(claim, key), tuple(targets[:TRIGGERS]))


def judge_predictions(
    opening: Opening, labels: Sequence[str], answers: Mapping[str, str], trials: Trials
) -> HitFinding:
    """Check the opening, then count its triggers' hits.

    Args:
        opening: the claim with one sub-key. labels: as the logged charter lists them.
        answers: text -> label that the suspect gave; other texts are left aside, triggers without
            an answer and answers that are no label are misses.
        trials: how many chances a match by accident had, among them all sub-keys of the claim.

    Raises:
        ClaimError: the opening does not hold: edited, or somebody else's.
        CaseError: the labels are none, no trigger was answered, or ``trials`` counts fewer sub-keys
            than the claim has.
    """
    opening.check()
    trials.check_sub_keys(opening.claim.keys)
    triggers = trigger_set(opening.claim, opening.key, labels)
    answered = sum(text in answers for text in triggers.texts)
    if not answered:
        raise CaseError(
            f"none of the {len(answers)} texts with predictions is a trigger of sub-key "
            f"{opening.index}; were they made for another sub-key or claim?"
        )
    return HitFinding(triggers.hits(answers), len(labels), answered, trials)


def needed_hits(classes: int, trials: Trials) -> int | None:
    """The fewest hits of TRIGGERS whose tail is as small as a claim needs; None if none are."""
    for hits in range(TRIGGERS + 1):
        if -log2_binomial_tail(hits, TRIGGERS, classes=classes) >= trials.bits:
            return hits
    return None


def _checked(labels: Sequence[str]) -> int:
    if not 2 <= len(labels) <= MAX_CLASSES or len(set(labels)) != len(labels):
        raise CaseError(
            f"{len(labels)} labels, {len(set(labels))} of them different; triggers need 2 to "
            f"{MAX_CLASSES} labels, each once, as the charter lists them"
        )
    return len(labels)
