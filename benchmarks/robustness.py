"""Attacks against robust rules: ``python -m benchmarks.robustness --data DIR``.

BANKING77 on the real encoder, non-IID clients (Dirichlet), one or two attackers beside four honest
clients. Every attack of the zoo at its doses, against every rule, three seeds: which attack reaches
what, whom the rule excludes, and what that costs in accuracy. ``--scoring encrypted`` takes the
scores through the real encryption of the sketches.

A case takes minutes. Rows are appended to a file as they are measured; started again, the benchmark
goes on where it was. ``--only`` picks attacks and rules (``--attack`` and ``--rule`` each family by
itself, ``none`` too), ``--budget-minutes`` stops starting new cases.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.attacks.zoo import ATTACKS, DOSES
from benchmarks.results import Budget, Row, RowFile, add_row_options, report
from benchmarks.robust_plot import draw
from benchmarks.robust_runs import SCALE, Arena, Case, Setting
from benchmarks.robust_scoring import Scoring, encrypted_scoring, plain_scoring
from benchmarks.robust_summary import minimax, summaries, summary_table
from benchmarks.robust_table import figures, table
from benchmarks.robust_training import Trainer
from fedfm_crypto.sketch import SketchLayout
from secure_fedfm.learning.data import load_data
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.recipes import votes_for
from secure_fedfm.learning.specs import TaskSpec
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.robust.drafting import two_groups
from secure_fedfm.robust.registry import DEFAULT, RULES, make_rule
from secure_fedfm.robust.rule import Rule

ALPHAS = (1.0, 0.3)
MULTIPLIED = ("label-flip", "replacement", "constrain-and-scale", "dba", "neurotoxin", "edge-case")
"""Attacks that are run at every dose; the others have one of their own."""
OWN_DOSES = {
    "alie": (5.0,),
    "inner-product": (1.0, 5.0),
    "sybils": (1.0, 2.0),
    "on-off": (1.0, 5.0),
    "slow-burn": (1.0, 5.0),
}


SKETCHED = "every-group"
"""The default rule of charters, on the whole update and on two groups of values."""
JUDGED_VOTES = "judged-votes"
"""The same, and clients send votes: what ``charter new`` drafts."""
VOTING = ("votes", JUDGED_VOTES)
VOTES = votes_for(Setting().plan, Setting.rounds)
SCORINGS = ("plain", "encrypted")


def make_arena(data: str, setting: Setting, cache: Path | None, scoring: str) -> Arena:
    """The real model and data; trainings are kept in the folder ``cache``."""
    rows = load_data(data)
    task = TaskSpec("classification", rows.train.label_names())
    model = load_adapted(DEFAULT_MODEL, setting.adapter, task)
    layout = SketchLayout(model.layout.size, two_groups(model.layout.size))
    scorings: dict[str, Scoring] = {"plain": plain_scoring(layout)}
    if scoring == "encrypted":
        scorings["encrypted"] = encrypted_scoring(layout, SCALE)
    trainer = Trainer(model, task.labels, setting.plan, cache)
    return Arena(rows, setting, trainer, rules(), scorings, layout, dict.fromkeys(VOTING, VOTES))


def rules() -> dict[str, Rule | None]:
    """Rules by name; ``none`` takes everybody, ``votes`` everybody's votes; ``every-group`` is the
    default rule on the whole and by group."""
    return {
        "none": None,
        "votes": None,
        SKETCHED: make_rule(DEFAULT, {}, every_group=True),
        JUDGED_VOTES: make_rule(DEFAULT, {}),
        **{name: make_rule(name, {}) for name in RULES},
    }


def cases(
    attacks: Sequence[str],
    wanted: Sequence[str],
    alphas: Sequence[float],
    seeds: int,
    scoring: str,
    doses: Sequence[float] = DOSES,
) -> Iterator[Case]:
    """One seed of everything first, without a rule before with one: an attack that does nothing
    undefended is no attack."""
    known, honest = rules(), Setting().honest
    for seed, alpha, rule in itertools.product(range(1, seeds + 1), alphas, wanted):
        made = known[rule]
        for attack in attacks:
            if made is not None and made.fewest > honest + ATTACKS[attack].malicious:
                continue  # it judges no round of so few
            for dose in doses if attack in MULTIPLIED else OWN_DOSES.get(attack, (1.0,)):
                yield Case(attack, dose, rule, alpha, seed, scoring)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the budget allows; print the table of all rows there are."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    setting = Setting(rows=arguments.train_rows, rounds=arguments.rounds)
    file, budget = RowFile(arguments.rows), Budget(arguments.budget_minutes)
    known = rules()
    attacks = arguments.attack or [n for n in ATTACKS if _picked(arguments.only, n, ATTACKS)]
    chosen = arguments.rule or [
        name for name in ("none", SKETCHED, JUDGED_VOTES) if _picked(arguments.only, name, known)
    ]
    if not arguments.rule and (arguments.all_rules or _named(arguments.only, known)):
        chosen = [name for name in known if _picked(arguments.only, name, known)]
    arena: Arena | None = None
    planned = cases(
        attacks, chosen, arguments.alpha, arguments.seeds, arguments.scoring, arguments.doses
    )
    for case in planned:
        if budget.spent:
            break
        if file.of(case.key(setting)):
            continue
        arena = arena or make_arena(arguments.data, setting, arguments.cache, arguments.scoring)
        row = arena.run(case)
        file.append(row)
        success = "-" if row["asr"] is None else f"{100 * row['asr']:.1f} %"
        print(
            f"{case.attack} x{case.dose:g} against {case.rule}, alpha {case.alpha:g}, seed "
            f"{case.seed}: ASR {success}, accuracy {100 * row['accuracy']:.1f} % in "
            f"{row['cpu_s']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    rows = [row for row in file.rows if row.get("benchmark") == "robustness"]
    found = figures(rows)
    if arguments.plot is not None:
        draw(found, arguments.plot)
    best = minimax(rows)
    results: Row = {"benchmark": "robustness", "rows": file.rows}
    if best is not None:
        rule, asr, (attack, dose, alpha, seed) = best.worst[0]
        results["minimax"] = {"rule": rule, "asr": asr, "cells": len(best.cells)} | {
            "attack": attack, "dose": dose, "alpha": alpha, "seed": seed,
        }  # fmt: skip
    short = summary_table(summaries(rows)) + ("" if best is None else "\n\n" + best.to_text())
    report(arguments, results, lambda: table(found) if arguments.full else short)
    return 0


def _named(only: Sequence[str] | None, family: Mapping[str, object]) -> list[str]:
    return [one for one in only or () if one in family and one != "none"]


def _picked(only: Sequence[str] | None, name: str, family: Mapping[str, object]) -> bool:
    """``--only`` restricts a family of names only if it names one of it."""
    named = _named(only, family)
    return not named or name in named


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness",
        description="Attacks against robust rules on BANKING77.",
    )
    parser.add_argument(
        "--data", default="../shared/data/banking77", help="folder with train, test"
    )
    parser.add_argument("--train-rows", type=int, default=Setting.rows, help="rows of all clients")
    parser.add_argument("--rounds", type=int, default=Setting.rounds)
    parser.add_argument("--alpha", type=float, nargs="+", default=list(ALPHAS), help="Dirichlet")
    parser.add_argument("--doses", type=float, nargs="+", default=list(DOSES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scoring", choices=SCORINGS, default="plain")
    parser.add_argument("--cache", type=Path, help="folder that keeps trainings between runs")
    parser.add_argument("--plot", type=Path, help="draw all rows there are into this SVG file")
    parser.add_argument("--all-rules", action="store_true", help="not only none and the default")
    parser.add_argument("--full", action="store_true", help="print every cell by itself")
    names = sorted({*ATTACKS, *rules()})
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--attack", action="append", choices=list(ATTACKS), help="just these")
    parser.add_argument("--rule", action="append", choices=list(rules()), help="just these")
    add_row_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
