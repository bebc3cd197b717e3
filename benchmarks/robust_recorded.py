"""What a robust rule sees, and whom it excludes where nobody attacks: ``python -m
benchmarks.robust_recorded``.

A federation is played once and what its clients send is kept. ``--look ATTACK`` prints, for each
round and client, the numbers that tell an attacker or do not: measured exactly, not from sketches.
``--honest`` takes the updates of federations without attackers and has the default rule judge them
again and again, each time with other directions of the sketches: how often honest clients are
excluded by chance. With the trainings of :mod:`benchmarks.robustness` in ``--cache`` both take
seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attacks.crafting import Vector, cosine
from benchmarks.attacks.zoo import ATTACKS
from benchmarks.results import markdown_table
from benchmarks.robust_runs import SCALE, Arena, Case, Setting
from benchmarks.robust_scoring import Scoring, plain_scoring
from benchmarks.robustness import ALPHAS, SKETCHED, make_arena, rules
from fedfm_crypto.sketch import SketchLayout
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.seeds import generator
from secure_fedfm.robust.memory import NOTHING
from secure_fedfm.robust.rule import Rule

Floats = NDArray[np.float64]
Sent = Mapping[str, Vector]

POISON_SITS_IN = ("attention.output", "attention.self.value")
"""Where poison works most, in all that was looked at."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of one client in one round; ratios are over the median of the clients.

    Args:
        round, name: of what.
        length: L2 norm of its update, ratio.
        shares: norm in a group of tensors over that in all others, ratio, by group.
        towards: mean cosine with the others.
        again: cosine with its own update of the round before, in the tensors ``POISON_SITS_IN``.
    """

    round: int
    name: str
    length: float
    shares: Mapping[str, float]
    towards: float
    again: float


def recorded(arena: Arena, case: Case) -> list[Sent]:
    """Play a case; what was sent in each round."""
    rounds: list[Sent] = []
    arena.run(case, lambda _, sent: rounds.append(dict(sent)))
    return rounds


def looks(rounds: Sequence[Sent], layout: TensorLayout) -> list[Look]:
    """All clients of all rounds."""
    groups = {
        "attention": _places(layout, ("attention",)),
        "output and value": _places(layout, POISON_SITS_IN),
        "dense": _places(layout, ("intermediate", ".output.dense"), but="attention"),
    }
    suspected = groups["output and value"]
    found: list[Look] = []
    for place, sent in enumerate(rounds):
        names = sorted(sent)
        vectors = np.array([sent[name] for name in names])
        lengths = np.linalg.norm(vectors, axis=1)
        unit = vectors / lengths[:, None]
        towards = ((unit @ unit.T).sum(axis=1) - 1) / (len(names) - 1)
        shares = {what: _shares(vectors, inside) for what, inside in groups.items()}
        for i, name in enumerate(names):
            before = rounds[place - 1].get(name) if place else None
            again = (
                cosine(sent[name][suspected], before[suspected])
                if before is not None
                else float("nan")
            )
            found.append(
                Look(
                    place + 1,
                    name,
                    float(lengths[i] / np.median(lengths)),
                    {what: float(share[i]) for what, share in shares.items()},
                    float(towards[i]),
                    again,
                )
            )
    return found


def _places(layout: TensorLayout, words: Sequence[str], but: str = "\n") -> NDArray[np.bool_]:
    """Which values belong to tensors with one of these words in their names."""
    inside = np.zeros(layout.size, dtype=bool)
    for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        if any(word in name for word in words) and but not in name:
            inside[start : start + int(np.prod(shape))] = True
    return inside


def _shares(vectors: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Norms inside over norms outside, over their median; 1 where nothing is inside."""
    if not inside.any():
        return np.ones(len(vectors))
    within, without = (np.linalg.norm(vectors[:, one], axis=1) for one in (inside, ~inside))
    ratios = within / without
    return np.asarray(ratios / np.median(ratios))


def look_table(found: Sequence[Look]) -> str:
    """As Markdown, a line for each client and round."""
    what = tuple(found[0].shares)
    columns = ("round", "client", "length", *what, "cosine with others", "with its own last")
    return markdown_table(
        columns,
        [
            (
                one.round, one.name, f"{one.length:.2f}",
                *(f"{one.shares[name]:.2f}" for name in what),
                f"{one.towards:.2f}", f"{one.again:.2f}",
            )
            for one in found
        ],
    )  # fmt: skip


def exclusions(
    rule: Rule, rounds: Sequence[Sent], scoring: Scoring, draws: int, *seed: object
) -> tuple[int, int]:
    """(clients that the rule excludes, of how many) over all rounds and draws of directions."""
    excluded = judged = 0
    for draw in range(draws):
        memory = NOTHING
        for number, sent in enumerate(rounds, start=1):
            names = tuple(sorted(sent))
            integers = [np.rint(sent[name] * SCALE).astype(np.int64) for name in names]
            beacon = generator("honest beacon", draw, number, *seed).bytes(32)
            verdict = rule.judge(scoring(names, integers, beacon)[0], memory)
            memory = verdict.memory
            excluded += len(names) - len(verdict.accepted_names)
            judged += len(names)
    return excluded, judged


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was asked for."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    arena = make_arena(arguments.data, Setting(), arguments.cache, "plain")
    if arguments.look is not None:
        for alpha in arguments.alpha:
            for seed in arguments.seed:
                rounds = recorded(arena, Case(arguments.look, 1.0, arguments.rule, alpha, seed))
                print(f"{arguments.look} against {arguments.rule}, alpha {alpha:g}, seed {seed}\n")
                print(look_table(looks(rounds, arena.layout)), "\n", flush=True)
        return 0
    rule = rules()[SKETCHED]
    if rule is None:
        raise ValueError("the default rule is none")
    lines: list[tuple[object, ...]] = []
    totals = [0, 0]
    scoring = plain_scoring(SketchLayout(arena.layout.size, arena.groups))
    for alpha in arguments.alpha:
        for seed in arguments.seed:
            rounds = recorded(arena, Case("none", 1.0, "none", alpha, seed))
            counts = exclusions(rule, rounds, scoring, arguments.draws, alpha, seed)
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
            lines.append((f"{alpha:g}", seed, *counts, f"{100 * counts[0] / counts[1]:.1f}"))
    lines.append(("all", "", *totals, f"{100 * totals[0] / totals[1]:.1f}"))
    print(markdown_table(("alpha", "seed", "excluded", "of", "per cent"), lines))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robust_recorded",
        description="What a robust rule sees, and whom it excludes where nobody attacks.",
    )
    parser.add_argument(
        "--data", default="../shared/data/banking77", help="folder with train, test"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps trainings between runs")
    parser.add_argument("--alpha", type=float, nargs="+", default=list(ALPHAS), help="Dirichlet")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rule", choices=list(rules()), default="none", help="that --look runs")
    parser.add_argument("--draws", type=int, default=8, help="of the sketches' directions")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--look", choices=list(ATTACKS), help="print what is seen of this attack")
    what.add_argument("--honest", action="store_true", help="exclusions where nobody attacks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
