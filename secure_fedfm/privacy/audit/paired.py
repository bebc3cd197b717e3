"""Layer 1, deterministic: the real training path on D and on D' = D + one row, same randomness.

From one start the path runs single steps on both data sets, every random draw equal where both have
it. What may differ is what the one row does, and that is known: nothing in a step that does not
draw it, and its own clipped gradient, by plain autograd, in a step that does. Noise is seen as the
released minus the rounded sum; whole rounds are replayed from their released sums alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fedfm_crypto.random_source import RandomSource, SeededRandom
from secure_fedfm.learning.training import PreparedRows
from secure_fedfm.privacy import dp_sgd
from secure_fedfm.privacy.audit.findings import Finding, LayerReport
from secure_fedfm.privacy.audit.subject import AuditSubject
from secure_fedfm.privacy.dp_sgd import StepRecord, apply_gradient, new_private_optimiser
from secure_fedfm.privacy.gradients import one_by_one
from secure_fedfm.privacy.plan import PrivatePlan
from secure_fedfm.privacy.release import NoiseGrid, mean_gradient

_FLOAT_ERROR = 1e-4
"""Of C: how far float32 may carry a sum when the neighbours in a batch change."""
_ATTEMPTS = 2000
_DEVIATIONS = 6.0
"""Bands of statistics: a correct path leaves one with probability below 1e-8."""

SHOWS = (
    "the code that ran adds the declared noise to every released coordinate, one row moves the sum "
    "by at most the clip, rows are drawn independently, and nothing else trains the adapter"
)
CANNOT_SHOW = (
    "that another machine runs this code, that the noise is unpredictable, or what epsilon the "
    "declared noise is worth (the ledger says that)"
)


class CallSeeded:
    """A random source whose k-th call depends on (seed, k) only, so that a longer draw begins like
    a shorter one. For audits: it keeps two runs aligned although one has a row more."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.sizes: list[int] = []

    def __call__(self, count: int) -> bytes:
        own = hashlib.sha256(self._seed + len(self.sizes).to_bytes(8, "big")).digest()
        self.sizes.append(count)
        return SeededRandom(own)(count)


@dataclass
class _Evidence:
    """What went wrong, by check; and the noise that was seen."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    noise: list[npt.NDArray[np.int64]] = field(default_factory=list)
    worst: float = 0.0

    def note(self, check: str, problem: str) -> None:
        self.problems.setdefault(check, []).append(problem)


CHECKS = {
    "control flow": "the same draws and one release per step, whatever the data",
    "sampling": "who is drawn does not depend on who else is there",
    "sensitivity": "the one row changes the sum by its own clipped gradient, at most the clip",
    "noise independent": "the same randomness gives the same noise on both data sets",
    "noise everywhere": "no coordinate without noise",
    "noise size": "in every tensor the declared deviation",
    "noise fresh": "no two releases share their noise, and the generator is not seeded",
    "nothing beside": "the adapter is a function of the released sums; nothing else moved",
}


def paired_audit(subject: AuditSubject, *, pairs: int = 24, seed: int = 1) -> LayerReport:
    """Run the layer.

    Args:
        pairs: single steps from the same start, on D and on D'.
        seed: of the aligned runs; any number.
    """
    seen = _Evidence()
    one_step = replace(subject.private, steps_per_round=1)
    grid = NoiseGrid.of(subject.private, subject.model.layout.size)
    own = _clipped_row(subject, grid.clip)
    subject.model.load(subject.start)
    base = _base_weights(subject)
    for pair, key in enumerate(_keys(subject, pairs, seed)):
        short, long = CallSeeded(key), CallSeeded(key)
        first = _run(subject, subject.rows, one_step, short)
        second = _run(subject, subject.neighbour, one_step, long)
        _compare_flow(seen, pair, first, second, short, long)
        if len(first) == len(second) == 1:
            _compare_steps(seen, subject, grid, own, first[0], second[0])
    rounds = [_run(subject, subject.rows, subject.private, CallSeeded(b"round %d" % seed))]
    _check_replay(seen, subject, grid, rounds[0])
    rounds += [_run(subject, subject.rows, subject.private, None) for _ in range(2)]
    for found in rounds:
        if len(found) != subject.private.steps_per_round:
            seen.note(
                "control flow",
                f"{len(found)} releases in a round of {subject.private.steps_per_round} steps",
            )
        seen.noise += [record.release.noised - record.release.rounded for record in found]
    after = _base_weights(subject)
    for name in base:
        if not torch.equal(base[name], after[name]):
            seen.note("nothing beside", f"{name} is frozen and moved all the same")
    _check_noise(seen, subject, grid)
    return _report(seen, grid)


def _keys(subject: AuditSubject, pairs: int, seed: int) -> Iterator[bytes]:
    """Keys of aligned runs in which, by turns, nobody is drawn; the one row alone; others and the
    one row; others without it. Left to chance, an audit may never meet the case that matters."""
    last, rate = len(subject.rows), subject.private.sampling_rate
    threshold = int(Fraction(rate) * (1 << 64))
    wanted = ((False, False), (False, True), (True, True), (True, False))
    for pair in range(pairs):
        for attempt in range(_ATTEMPTS):
            key = b"pair %d of %d, %d" % (pair, seed, attempt)
            data = CallSeeded(key)(8 * (last + 1))
            # The sampler's rule, written a second time.
            drawn = [
                int.from_bytes(data[8 * row : 8 * row + 8], "little") < threshold
                for row in range(last + 1)
            ]
            if (any(drawn[:last]), drawn[last]) == wanted[pair % len(wanted)]:
                break
        yield key  # with q near 0 or 1 some cases do not occur: then whatever came last


def _run(
    subject: AuditSubject,
    rows: PreparedRows,
    private: PrivatePlan,
    random: RandomSource | None,
) -> list[StepRecord]:
    """One round from the start; with `random` None as in production, generator included."""
    subject.model.load(subject.start)
    records: list[StepRecord] = []
    run = partial(
        dp_sgd.train_private_round,
        subject.model,
        rows,
        subject.plan,
        private,
        1,
        observe=records.append,
    )
    if random is None:
        run()
    else:
        run(random=random)
    return records


def _clipped_row(subject: AuditSubject, clip: float) -> npt.NDArray[np.float64]:
    """The clipped gradient of the one row more, by plain autograd."""
    subject.model.load(subject.start)
    last = len(subject.neighbour) - 1
    batch = subject.neighbour.encoded.batch(np.array([last], dtype=np.int64))
    parts = one_by_one(subject.model, batch)
    flat = np.concatenate(
        [parts[name].double().numpy().ravel() for name in subject.model.layout.names]
    )
    norm = float(np.linalg.norm(flat))
    return flat * min(1.0, clip / norm)


def _compare_flow(
    seen: _Evidence,
    pair: int,
    first: list[StepRecord],
    second: list[StepRecord],
    short: CallSeeded,
    long: CallSeeded,
) -> None:
    if len(first) != 1 or len(second) != 1:
        seen.note(
            "control flow", f"pair {pair}: {len(first)} and {len(second)} releases of one step"
        )
    elif len(short.sizes) != len(long.sizes):
        seen.note(
            "control flow",
            f"pair {pair}: {len(short.sizes)} and {len(long.sizes)} draws of randomness",
        )


def _compare_steps(
    seen: _Evidence,
    subject: AuditSubject,
    grid: NoiseGrid,
    own: npt.NDArray[np.float64],
    first: StepRecord,
    second: StepRecord,
) -> None:
    last = len(subject.rows)
    others = second.chosen[second.chosen < last]
    if not np.array_equal(first.chosen, others):
        seen.note(
            "sampling",
            f"one row more changed who of the others is drawn ({first.chosen.size} and "
            f"{others.size} rows)",
        )
    expected = own if last in second.chosen else np.zeros_like(own)
    rounded = second.release.rounded - first.release.rounded
    # The dither is the same: a coordinate rounds at most one step further than it moved.
    allowed = np.abs(expected) * grid.scale + 1 + _FLOAT_ERROR * grid.clip * grid.scale
    outside = int(np.count_nonzero(np.abs(rounded) > allowed))
    moved = float(np.linalg.norm(rounded.astype(np.float64)))
    error = float(np.linalg.norm(second.clipped.total - first.clipped.total - expected))
    seen.worst = max(seen.worst, moved / grid.sensitivity)
    if moved > grid.sensitivity * (1 + _FLOAT_ERROR) or outside or error > _FLOAT_ERROR * grid.clip:
        seen.note(
            "sensitivity",
            f"the sum moved by {moved / grid.scale / grid.clip:.4f} clips, {outside} coordinates "
            f"beyond the row's own gradient, {error / grid.clip:.1e} clips unexplained",
        )
    noise = first.release.noised - first.release.rounded
    if not np.array_equal(noise, second.release.noised - second.release.rounded):
        seen.note("noise independent", "the noise depends on the data")
    seen.noise.append(noise)


def _check_replay(
    seen: _Evidence, subject: AuditSubject, grid: NoiseGrid, records: list[StepRecord]
) -> None:
    """Right after a whole round: the model is still as that left it."""
    reached = subject.model.state()
    _replay(subject, grid, records)
    replayed = subject.model.state()
    for name in reached:
        if not np.array_equal(reached[name], replayed[name]):
            seen.note("nothing beside", f"{name} moved by something other than the released sums")


def _base_weights(subject: AuditSubject) -> dict[str, torch.Tensor]:
    """All that training must leave alone, copied."""
    return {
        name: parameter.detach().clone()
        for name, parameter in subject.model.peft.named_parameters()
        if not parameter.requires_grad
    }


def _replay(subject: AuditSubject, grid: NoiseGrid, records: list[StepRecord]) -> None:
    """Post-processing again, from the start, from what was released and public settings alone."""
    subject.model.load(subject.start)
    optimiser = new_private_optimiser(subject.model, subject.private)
    for record in records:
        gradient = mean_gradient(record.release.noised, grid, subject.private.expected_batch)
        factor = subject.plan.learning_rate_factor(
            1, (record.step - 1) / subject.private.steps_per_round
        )
        apply_gradient(subject.model, optimiser, gradient, factor)


def _check_noise(seen: _Evidence, subject: AuditSubject, grid: NoiseGrid) -> None:
    if not seen.noise or grid.sigma == 0:
        seen.note("noise size", "there is no noise at all")
        return
    noise = np.stack(seen.noise).astype(np.float64) / grid.sigma
    layout = subject.model.layout
    for name, start, shape in zip(layout.names, layout.offsets, layout.shapes, strict=True):
        part = noise[:, start : start + math.prod(shape)]
        silent = int(np.count_nonzero(~part.any(axis=0)))
        if silent:
            seen.note("noise everywhere", f"{silent} of {part.shape[1]} coordinates of {name}")
        # Sum of squares of n standard normals: mean n, variance 2 n.
        ratio, band = float((part**2).mean()), _DEVIATIONS * math.sqrt(2 / part.size)
        if abs(ratio - 1) > band:
            seen.note(
                "noise size",
                f"{name} has {math.sqrt(ratio):.3f} of the declared deviation "
                f"(1 +- {band / 2:.3f})",
            )
    # Equal noise twice, or its negative, has correlation 1; independent noise 1/sqrt(d).
    together = noise @ noise.T / noise.shape[1]
    np.fill_diagonal(together, 0.0)
    limit = _DEVIATIONS / math.sqrt(noise.shape[1])
    if float(np.abs(together).max()) > limit:
        one, other = np.unravel_index(int(np.abs(together).argmax()), together.shape)
        seen.note(
            "noise fresh",
            f"releases {int(one)} and {int(other)} correlate by {together[one, other]:.2f}",
        )


def _report(seen: _Evidence, grid: NoiseGrid) -> LayerReport:
    findings = []
    for check, good in CHECKS.items():
        problems = seen.problems.get(check, [])
        text = good
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            text = problems[0] + more
        findings.append(Finding(check, not problems, text))
    figures = {
        "largest_change_over_sensitivity": seen.worst,
        "releases_seen": float(len(seen.noise)),
        "dimension": float(grid.dimension),
    }
    return LayerReport("paired runs", SHOWS, CANNOT_SHOW, tuple(findings), figures)
