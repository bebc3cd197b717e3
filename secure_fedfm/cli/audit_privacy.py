"""`audit privacy`: try to break private training on this machine, in three layers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import Exit, require
from secure_fedfm.cli.output import emit, say


class Layer(Enum):
    """Which part of the audit to run."""

    PAIRED = "paired"
    MONTE_CARLO = "monte-carlo"
    ONE_RUN = "one-run"


def audit_privacy(
    layers: Annotated[
        list[Layer] | None,
        typer.Option("--layer", help="Only this layer; repeat for several. By default all."),
    ] = None,
    noise_multiplier: Annotated[
        float,
        typer.Option("--noise-multiplier", min=0.05, max=100, help="Noise over the clip."),
    ] = 1.0,
    delta: Annotated[
        float, typer.Option("--delta", min=1e-12, max=0.1, help="Delta of the epsilon claimed.")
    ] = 1e-5,
    clip: Annotated[float, typer.Option("--clip", min=1e-4, max=1e4, help="L2 clip.")] = 1.0,
    trials: Annotated[
        int, typer.Option("--trials", min=100, help="Monte Carlo: releases on either side.")
    ] = 2000,
    canaries: Annotated[
        int, typer.Option("--canaries", min=100, max=100_000, help="One run: how many canaries.")
    ] = 1000,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Paired runs: an encoder by name or folder, instead of a small random one.",
        ),
    ] = None,
    location: Annotated[
        Path | None,
        typer.Option("--model-folder", exists=True, file_okay=False, help="Where it lies."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Audit private training: the code of this installation, on this machine, with public data.

    Paired runs compare training on neighbouring data sets draw by draw; Monte Carlo and one-run
    measure how well released numbers can be told apart. Each prints what a pass is worth. No
    private rows are read and nothing is sent. Ends with 1 if a check failed.
    """
    require("torch", "transformers", "peft", "opacus")
    import torch  # noqa: PLC0415

    from secure_fedfm.privacy.audit.monte_carlo import monte_carlo_audit  # noqa: PLC0415
    from secure_fedfm.privacy.audit.one_run import one_run_audit  # noqa: PLC0415
    from secure_fedfm.privacy.audit.paired import paired_audit  # noqa: PLC0415
    from secure_fedfm.privacy.audit.subject import AUDITED, pinned_subject  # noqa: PLC0415

    # Small matrices: more threads only wait for each other.
    torch.set_num_threads(1)
    chosen = layers or list(Layer)
    reports = []
    for layer in Layer:
        if layer not in chosen:
            continue
        if layer is Layer.PAIRED:
            settings = AUDITED.with_noise(noise_multiplier, clip)
            report = paired_audit(pinned_subject(model, location, settings))
        elif layer is Layer.MONTE_CARLO:
            report = monte_carlo_audit(noise_multiplier, delta, trials=trials, clip=clip)
        else:
            report = one_run_audit(noise_multiplier, delta, canaries=canaries, clip=clip)
        say(report.to_text())
        reports.append(report)
    passed = all(report.passed for report in reports)
    if as_json:
        emit(
            {
                "passed": passed,
                "noise_multiplier": noise_multiplier,
                "clip": clip,
                "delta": delta,
                "layers": [report.to_json() for report in reports],
            }
        )
    if not passed:
        raise typer.Exit(Exit.CHECK_FAILED)
