"""Planted faults: each layer of the audit catches what it says it does, and no more.

layer                       paired       Monte Carlo                one run
noise / sqrt(32)            noise size   all three                  caught
half the noise              noise size   if Gaussian, coordinates   MISSED
10 % without noise          everywhere   coordinates                MISSED
batch clipped, not rows     sensitivity  -                          -
a tensor beside             beside       -                          -
shuffling                   sampling     batch sizes                -
skipped empty step          control flow -                          -
reused seed                 fresh        -                          -
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedfm_crypto.discrete_noise import discrete_gaussian
from fedfm_crypto.random_source import RandomSource, SeededRandom
from secure_fedfm.privacy import clipping, dp_sgd, release, sampling
from secure_fedfm.privacy.audit.monte_carlo import monte_carlo_audit
from secure_fedfm.privacy.audit.one_run import one_run_audit
from secure_fedfm.privacy.audit.paired import CHECKS, paired_audit
from secure_fedfm.privacy.audit.subject import AUDITED, AuditSubject, small_subject
from secure_fedfm.privacy.clipping import ClippedSum

DELTA = 1e-5
Patch = Callable[[pytest.MonkeyPatch, AuditSubject], None]


@pytest.fixture(scope="module")
def subject() -> AuditSubject:
    return small_subject(AUDITED)


def _scaled_noise(factor: float) -> Patch:
    def plant(patch: pytest.MonkeyPatch, _: AuditSubject | None = None) -> None:
        patch.setattr(
            release,
            "discrete_gaussian",
            lambda sigma, size, random: discrete_gaussian(sigma * factor, size, random),
        )

    return plant


def _some_without_noise(patch: pytest.MonkeyPatch, _: AuditSubject | None = None) -> None:

    def partial(sigma: float, size: int, random: RandomSource) -> Any:
        noise = discrete_gaussian(sigma, size, random)
        noise[::10] = 0
        return noise

    patch.setattr(release, "discrete_gaussian", partial)


def _batch_clipped(patch: pytest.MonkeyPatch, _: AuditSubject) -> None:
    def clip_the_sum(
        chosen: Any,
        lengths: Any,
        make: Any,
        gradients: Any,
        layout: Any,
        clip: float,
        physical: int,
    ) -> ClippedSum:
        whole = clipping.clipped_sum(chosen, lengths, make, gradients, layout, 1e9, physical)
        norm = float(np.linalg.norm(whole.total))
        return replace(whole, total=whole.total * min(1.0, clip / max(norm, 1e-12)))

    patch.setattr(dp_sgd, "clipped_sum", clip_the_sum)


def _tensor_beside(patch: pytest.MonkeyPatch, subject: AuditSubject) -> None:
    """One tensor takes a step on the true sum, without noise."""

    def leaky(*args: Any) -> ClippedSum:
        found = clipping.clipped_sum(*args)
        parameter = subject.model.trained()["head.bias"]
        size = parameter.numel()
        with torch.no_grad():  # any private values will do
            parameter.sub_(torch.from_numpy(found.total[:size]).to(torch.float32))
        return found

    patch.setattr(dp_sgd, "clipped_sum", leaky)


def _frozen_moves(patch: pytest.MonkeyPatch, subject: AuditSubject) -> None:
    def leaky(*args: Any) -> ClippedSum:
        found = clipping.clipped_sum(*args)
        frozen = next(p for p in subject.model.peft.parameters() if not p.requires_grad)
        with torch.no_grad():
            frozen += 1e-3
        return found

    patch.setattr(dp_sgd, "clipped_sum", leaky)


def _shuffled(rows: int, rate: float, random: RandomSource) -> Any:
    generator = np.random.default_rng(int.from_bytes(random(8), "big"))
    return np.sort(generator.permutation(rows)[: max(1, round(rate * rows))])


def _shuffling(patch: pytest.MonkeyPatch, _: AuditSubject) -> None:
    patch.setattr(dp_sgd, "poisson_sample", _shuffled)


def _drawn_again(patch: pytest.MonkeyPatch, _: AuditSubject) -> None:
    """An empty draw is repeated until somebody is in it."""

    def until_somebody(rows: int, rate: float, random: RandomSource) -> Any:
        while not len(found := sampling.poisson_sample(rows, rate, random)):
            continue
        return found

    patch.setattr(dp_sgd, "poisson_sample", until_somebody)


def _empty_skipped(patch: pytest.MonkeyPatch, _: AuditSubject) -> None:
    """Without noise and without telling anybody, as a data loader that drops empty batches."""
    train = dp_sgd.train_private_round

    def skipping(*args: Any, observe: Any, **options: Any) -> None:
        train(*args, observe=lambda r: observe(r) if r.chosen.size else None, **options)

    patch.setattr(dp_sgd, "train_private_round", skipping)


def _seed_in_every_step(patch: pytest.MonkeyPatch, _: AuditSubject) -> None:
    patch.setattr(
        release,
        "discrete_gaussian",
        lambda sigma, size, random: discrete_gaussian(sigma, size, SeededRandom(1)),
    )


def _seed_in_every_round(patch: pytest.MonkeyPatch, _: AuditSubject) -> None:
    train = dp_sgd.train_private_round

    def seeded(*args: Any, **options: Any) -> None:
        train(*args, **{"random": SeededRandom(42), **options})

    patch.setattr(dp_sgd, "train_private_round", seeded)


def test_a_correct_path_passes(subject: AuditSubject) -> None:
    report = paired_audit(subject)
    assert report.passed, report.to_text()
    assert [finding.check for finding in report.findings] == list(CHECKS)
    # The bound is reached: a looser clip would have been seen.
    assert 0.99 < report.figures["largest_change_over_sensitivity"] <= 1


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (_scaled_noise(1 / math.sqrt(32)), "noise size"),
        (_scaled_noise(0.5), "noise size"),
        (_some_without_noise, "noise everywhere"),
        (_batch_clipped, "sensitivity"),
        (_tensor_beside, "nothing beside"),
        (_shuffling, "sampling"),
        (_empty_skipped, "control flow"),
        (_drawn_again, "control flow"),
        (_seed_in_every_step, "noise fresh"),
        (_seed_in_every_round, "noise fresh"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_paired_runs_catch(
    plant: Patch, check: str, subject: AuditSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, subject)
    report = paired_audit(subject)
    assert check in report.failed(), report.to_text()


def test_a_frozen_tensor_that_moves_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    own = small_subject(AUDITED)  # the fault spoils its base model
    _frozen_moves(monkeypatch, own)
    assert "nothing beside" in paired_audit(own, pairs=2).failed()


CAUGHT_BY_MONTE_CARLO = [
    (_scaled_noise(1 / math.sqrt(32)), {"epsilon, if Gaussian", "noise of each coordinate"}),
    (_scaled_noise(0.5), {"epsilon, if Gaussian", "noise of each coordinate"}),
    (_some_without_noise, {"noise of each coordinate"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "checks"), CAUGHT_BY_MONTE_CARLO)
def test_monte_carlo_catches(plant: Any, checks: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    report = monte_carlo_audit(1.0, DELTA, trials=600, random=SeededRandom(3))
    assert set(report.failed()) == checks, report.to_text()


@pytest.mark.slow
def test_monte_carlo_passes_correct_noise_and_binomial_batches() -> None:
    report = monte_carlo_audit(1.0, DELTA, trials=600, random=SeededRandom(3))
    assert report.passed, report.to_text()
    # Sharp enough to be of use: within 40 % of the closed form 4.377.
    assert 2.6 < report.figures["epsilon_gaussian"] <= report.figures["epsilon_claimed"]


def test_monte_carlo_catches_batches_of_fixed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "poisson_sample", _shuffled)
    report = monte_carlo_audit(1.0, DELTA, trials=100, random=SeededRandom(3))
    assert report.failed() == ("batch sizes are binomial",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "caught"),
    [
        (_scaled_noise(1.0), False),
        (_scaled_noise(1 / math.sqrt(32)), True),
        (_scaled_noise(0.5), False),  # the known limit of one run
        (_some_without_noise, False),
    ],
)
def test_one_run_catches_gross_faults_only(
    plant: Any, caught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    report = one_run_audit(1.0, DELTA, random=SeededRandom(5))
    assert report.passed != caught, report.to_text()
    assert report.figures["epsilon_one_run"] > 0.5
