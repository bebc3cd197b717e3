"""Sketches under CKKS and the charter's rule: what a robust federation's services pass in.

The real :class:`fedfm_protocols.sketching.Sketching`. Clients encrypt their sketch, the coordinator
multiplies, the validator opens inner products and nothing else. Every byte that comes from outside
has one accepted length and form and is read before anything is computed with it. Needs the
federation extra (TenSEAL, numba).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, CryptoError
from fedfm_crypto.lattice.score_opening import ScoreOpening, symmetric
from fedfm_crypto.lattice.scores import (
    ScoreEvaluation,
    ScoreTask,
    gram_pairs,
    score_task_results,
    score_tasks,
)
from fedfm_crypto.lattice.sketch_encryption import SketchEncryption, binding_holds, sum_sketches
from fedfm_crypto.lattice.sketch_format import SKETCH, SketchScale, score_size
from fedfm_crypto.lattice.sketch_keys import EncryptionKey, EvaluationKey, SketchSecretKey
from fedfm_crypto.random_source import RandomSource, system_random
from fedfm_crypto.secret import Secret
from fedfm_crypto.sketch import sketch
from fedfm_protocols.charter import Charter
from fedfm_protocols.sketching import Integers, Judgement, Question, SketchKeyPair
from secure_fedfm.errors import ApplicationError, ConfigurationError, RobustnessError
from secure_fedfm.robust.charter_rule import rule_of
from secure_fedfm.robust.lengths import judge_lengths
from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.memory_file import decode_memory, encode_memory
from secure_fedfm.robust.reasons import UNJUDGED, code_of
from secure_fedfm.robust.rule import Rule, Verdict
from secure_fedfm.robust.score_matrix import GroupScores, ScoreMatrix

__all__ = ["EncryptedSketches", "TaskRunner"]

Floats = NDArray[np.float64]

MEASURED = 256
"""A vector shorter than the norm bound over this is not told from none."""

TaskRunner = Callable[[Iterable[ScoreTask]], Iterable[tuple[bytes, ...]]]
"""Carries out tasks of :func:`score_task_results`, in order; a process pool's map does."""


def _unjudged(names: tuple[str, ...], memory: Memory, why: str) -> Verdict:
    """A verdict that accepts nobody, since nobody could be judged."""
    nobody = np.zeros(len(names))
    reasons = tuple(f"{UNJUDGED}: {why}" for _ in names)
    return Verdict(names, (False,) * len(names), nobody, reasons, memory)


class EncryptedSketches:
    """Sketching of one federation, with the layout, norm bound and rule of its charter.

    Args:
        charter: of a robust federation.
        random: for the coordinator's own randomness in scores.
        told: is given a rule's verdict on a round, with its numbers: for the validator's own log.

    Raises:
        ConfigurationError: its rule is unknown or cannot work there.
    """

    __slots__ = ("_encryption", "_layout", "_names", "_random", "_root", "_rule", "_scale", "_told")

    def __init__(
        self,
        charter: Charter,
        random: RandomSource = system_random,
        told: Callable[[int, Verdict], None] | None = None,
    ) -> None:
        section, quantiser = charter.robustness, charter.quantiser
        if section is None:
            raise ConfigurationError("the charter names no robust rule; nothing is sketched")
        self._rule, self._root = rule_of(charter), section.root
        self._layout = section.layout(quantiser.values)
        self._scale = SketchScale(section.norm_bound * quantiser.scale, len(self._layout.groups))
        self._random = random
        self._told = told
        self._names = tuple(group.name for group in section.groups)
        self._encryption: tuple[bytes, SketchEncryption] | None = None

    @property
    def rule(self) -> Rule:
        """The charter's rule."""
        return self._rule

    # ---- everybody

    def sketch(self, values: Integers, beacon: bytes) -> Integers:
        """Return the sketch of the integers of an upload, int64[4096]; raises as ``sketch``."""
        return sketch(values, beacon, self._layout)

    # ---- client

    def check_key(self, public_key: bytes) -> None:
        """Raise CryptoError unless this is exactly one encryption key."""
        EncryptionKey.from_bytes(public_key)

    def encrypt(self, sketch: Integers, public_key: bytes) -> bytes:
        """Return a sketch's ciphertext; raises as :meth:`SketchEncryption.encrypt`."""
        held = self._encryption
        if held is None or held[0] != public_key:
            made = SketchEncryption(EncryptionKey.from_bytes(public_key), self._scale)
            held = self._encryption = (public_key, made)
        return held[1].encrypt(sketch)

    # ---- coordinator

    def check_evaluation(self, public_key: bytes, evaluation: bytes) -> None:
        """Raise CryptoError unless these are evaluation keys of that encryption key."""
        ScoreEvaluation(EncryptionKey.from_bytes(public_key), EvaluationKey.from_bytes(evaluation))

    def check_sketch(self, ciphertext: bytes) -> None:
        """Raise CiphertextError unless this is exactly one ciphertext of a sketch."""
        SKETCH.read(ciphertext)

    def scores(self, sketches: Sequence[bytes], public_key: bytes, evaluation: bytes) -> bytes:
        """Return the encrypted inner products of all pairs, row by row, in this process."""
        tasks = self.score_tasks(sketches, public_key, evaluation)
        return self.join_scores(tasks, map(score_task_results, tasks))

    def score_tasks(
        self, sketches: Sequence[bytes], public_key: bytes, evaluation: bytes
    ) -> tuple[ScoreTask, ...]:
        """Return the work of :meth:`scores` as blocks for other processes; raises as it does."""
        return tuple(
            score_tasks(
                EncryptionKey.from_bytes(public_key),
                EvaluationKey.from_bytes(evaluation),
                sketches,
                self._scale.groups,
                self._random,
            )
        )

    def join_scores(
        self, tasks: Sequence[ScoreTask], results: Iterable[tuple[bytes, ...]]
    ) -> bytes:
        """Return the scores of blocks in the order of :func:`gram_pairs`."""
        found: dict[tuple[int, int], bytes] = {}
        for task, scores in zip(tasks, results, strict=True):
            found.update(zip(task.pairs, scores, strict=True))
        count = 1 + max(column for _, column in found)
        return b"".join(found[pair] for pair in gram_pairs(count))

    def add(self, sketches: Sequence[bytes]) -> bytes:
        """Return the encrypted sum; raises as :func:`sum_sketches`."""
        return sum_sketches(sketches)

    # ---- validator

    def make_keys(self, random: RandomSource) -> SketchKeyPair:
        """Return a fresh key pair; the secret is the seed that all of it follows from."""
        secret = SketchSecretKey.generate(random)
        encryption, evaluation = secret.public_keys()
        return SketchKeyPair(secret.seed, encryption.to_bytes(), evaluation.to_bytes())

    def judge(self, secret: Secret, scores: bytes, question: Question) -> Judgement:
        """Open the scores and apply the rule; or, where the question has bounds, those alone.

        A row of a judgement is a client's inner products with all, float64 little-endian,
        [groups, n]: what a verdict commits to. Where the rule cannot judge (too few clients, no
        root client) it accepts nobody, each for the reason ``unjudged``, and its memory stays as it
        was: that ends the round at once, where silence would cost everybody the whole timeout.

        Raises:
            CryptoError: scores of another length, or a memory that is none.
        """
        names = question.names
        gram = self._open(secret, scores, len(names))
        memory = question.memory
        try:
            if question.bounds:
                least = self._scale.norm_bound / MEASURED
                verdict = judge_lengths(names, gram.sum(axis=0), question.bounds, least)
            else:
                verdict = self._judge(question, gram)
                memory = encode_memory(verdict.memory, self._rule.name)
        except ApplicationError as error:
            raise CryptoError(f"round {question.round} cannot be judged: {error}") from error
        if self._told is not None:
            self._told(question.round, verdict)
        judged = tuple(zip(names, verdict.reasons, strict=True))
        return Judgement(
            accepted=tuple(name for name, reason in judged if not reason),
            removed=tuple((name, code_of(reason)) for name, reason in judged if reason),
            rows=tuple(gram[:, place].astype("<f8").tobytes() for place in range(len(names))),
            memory=memory,
        )

    def _judge(self, question: Question, gram: Floats) -> Verdict:
        """The rule's verdict; raises RobustnessError for a memory that is none."""
        memory = decode_memory(question.memory, self._rule.name)
        groups = tuple(
            GroupScores(name, part) for name, part in zip(self._names, gram, strict=False)
        )
        try:
            scores = ScoreMatrix(question.names, gram.sum(axis=0), None, groups)
            if self._root is not None:
                scores = scores.rooted_at(self._root)
            verdict = self._rule.judge(scores, memory)
            self._check_root(verdict)
        except RobustnessError as error:
            return _unjudged(question.names, memory, str(error))
        return verdict

    def _check_root(self, verdict: Verdict) -> None:
        """Whom the rule itself excludes is no measure of the others; raises RobustnessError."""
        if self._root is not None and self._root not in verdict.accepted_names:
            why = verdict.reasons[verdict.names.index(self._root)]
            raise RobustnessError(f"the rule excludes the root client {self._root} itself ({why})")

    def _open(self, secret: Secret, scores: bytes, count: int) -> Floats:
        """Return the Gram matrices by group, [groups, n, n]."""
        pairs, size = gram_pairs(count), score_size(self._scale.groups)
        if len(scores) != len(pairs) * size:
            raise CiphertextError(
                f"scores of {len(scores)} bytes, expected {len(pairs) * size}: {size} for each of "
                f"the {len(pairs)} pairs of {count} sketches"
            )
        view = memoryview(scores)
        parts = [view[at : at + size] for at in range(0, len(scores), size)]
        opened = ScoreOpening(SketchSecretKey(secret), self._scale).open(parts)
        return symmetric(pairs, opened, count)

    def matches(self, secret: Secret, total: bytes, expected: Integers) -> bool:
        """Return whether an encrypted sum is ``expected``; raises as :func:`binding_holds`."""
        return binding_holds(SketchSecretKey(secret), total, expected, self._scale)
