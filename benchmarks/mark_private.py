"""Marks in an adapter that was trained with differential privacy, under a robust rule.

One institution trains the last two blocks' linear layers by DP-SGD at epsilon 8 (delta 1e-5,
example level) through the library's own path: rounds of the head alone first, as the privacy
benchmark does. Then the round of marks: every client's sum of marks is rounded on the charter's
grid and sketched, and the validator's test of lengths judges the sketches. Nothing is charged for
that round: what a client adds is a function of the released adapter and of its own key.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from benchmarks.mark_adapters import MAX_TOKENS, Workbench
from benchmarks.mark_owners import Owners, Strength
from benchmarks.results import Row
from benchmarks.robust_scoring import plain_scoring
from benchmarks.utility_recipes import HEAD_RATES, LORA_RATIOS, RECIPES, noise_for, private_plan
from benchmarks.utility_recipes import schedule as private_schedule
from fedfm_audit.watermark.suspect import LowRankSuspect
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SketchLayout
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.specs import ALL_LINEAR, AdapterSpec, TaskSpec
from secure_fedfm.learning.training import evaluate_rows, prepare_rows
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.privacy.dp_sgd import train_private_round
from secure_fedfm.robust.drafting import two_groups
from secure_fedfm.robust.encrypted_sketches import MEASURED
from secure_fedfm.robust.lengths import judge_lengths
from secure_fedfm.robust.rule import Verdict
from secure_fedfm.watermark.carrier import Carrier

EPSILON, ROWS, LAST_LAYERS, CLIENTS = 8.0, 2500, 2, 5
RECIPE = RECIPES["ffa"]


def private_marks(bench: Workbench, seed: int) -> Row:
    """Train with noise, mark, judge the lengths, measure; the row without its key."""
    spec = AdapterSpec(ALL_LINEAR, last_layers=LAST_LAYERS, seed=seed)
    model = load_adapted(DEFAULT_MODEL, spec, TaskSpec("classification", bench.labels))
    train, test = (
        prepare_rows(model, rows, bench.labels, MAX_TOKENS)
        for rows in (bench.owners_rows(ROWS, seed), bench.tested(all_rows=True))
    )
    rate = HEAD_RATES[EPSILON]
    noise = noise_for(EPSILON, RECIPE.sampling_rate, RECIPE.all_steps)
    plan = private_plan(RECIPE, (rate, LORA_RATIOS["ffa"] * rate), noise, ROWS)
    plan = replace(plan, head_rounds=RECIPE.head_rounds)

    def trained() -> Adapter:
        random = SeededRandom(f"private marks {seed}".encode())
        for number in range(1, RECIPE.rounds + 1):
            train_private_round(model, train, private_schedule(RECIPE), plan, number, random=random)
        return model.state()

    plain = bench.kept(f"private, {EPSILON}, {ROWS} rows", model.state(), trained)
    carrier = Carrier(model.layout, scale=spec.alpha / spec.rank)
    owners = Owners.plan(carrier, carrier.modules(plain), CLIENTS, seed, private=True)
    verdict, longest = lengths_of_marks(owners, plain)
    marked = owners.written(plain)
    accuracies = []
    for adapter in (plain, marked):
        model.load(adapter)
        accuracies.append(evaluate_rows(model, test).accuracy)
    return {
        **asdict(Strength.of(owners.judge(LowRankSuspect(carrier.factors(marked))))),
        "epsilon": EPSILON,
        "noise_multiplier": noise,
        "sizes": {mark: one.committed.claim.size for (_, mark), one in owners.marks.items()},
        "removed": sum(not one for one in verdict.accepted),
        "longest": longest,
        "accuracy_before": accuracies[0],
        "accuracy": accuracies[1],
    }


def lengths_of_marks(owners: Owners, adapter: Adapter) -> tuple[Verdict, float]:
    """The validator's verdict on the sketches of what each client adds, and the longest of them in
    parts of its bound."""
    size, scale = owners.carrier.layout.size, owners.terms.scale
    names = owners.clients
    vectors = [
        np.rint(owners.writer(name).update(adapter) * scale).astype(np.int64) for name in names
    ]
    layout = SketchLayout(size, two_groups(size))
    scores, _ = plain_scoring(layout)(names, vectors, b"\5" * 32)
    bounds = [owners.terms.measured_bound(name) for name in names]
    verdict = judge_lengths(names, scores.gram, bounds, max(bounds) / MEASURED)
    lengths = np.sqrt(np.diag(scores.gram)) / bounds
    return verdict, float(lengths.max())
