"""`demo`: a whole federation on this machine."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.charter import SuiteName
from secure_fedfm.cli.options import JsonOption, LabelColumnOption, TextColumnOption
from secure_fedfm.cli.outcome import require
from secure_fedfm.demo.options import DEFAULT_OUT, DemoOptions


class SplitKind(StrEnum):
    """How rows are dealt to clients."""

    iid = "iid"
    dirichlet = "dirichlet"


class DemoPrivacy(StrEnum):
    """Privacy modes that a demo runs."""

    none = "none"
    local = "local"
    client = "client"
    shared_noise = "shared-noise"


def demo(
    clients: Annotated[int, typer.Option("--clients", help="Institutions, 3 or more.")] = 5,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            help="Rounds of training [default: 3; without --privacy local, 4 from 4,000 rows on; "
            "2 sessions of 50 steps with --privacy shared-noise].",
        ),
    ] = None,
    suite: Annotated[SuiteName, typer.Option("--suite", help="Protection of updates.")] = (
        SuiteName.layered
    ),
    privacy: Annotated[
        DemoPrivacy | None,
        typer.Option(
            "--privacy",
            help="Differential privacy: of rows, each institution with its own noise (local) or "
            "all with noise that they share (shared-noise), of whole updates (client), or none "
            "[default: local; none with --robust and --attackers].",
        ),
    ] = None,
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon",
            help="Privacy budget, at delta 1e-5: of each institution's rows in mode local, of "
            "every row in mode shared-noise.",
        ),
    ] = 8.0,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="CSV, JSONL or Parquet file, folder with train and test files, or hub data set "
            "[default: generated support tickets].",
        ),
    ] = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the results go.")
    ] = DEFAULT_OUT,
    seed: Annotated[int, typer.Option("--seed", help="Seed of split and training.")] = 1,
    split: Annotated[SplitKind, typer.Option("--split", help="How rows are dealt.")] = (
        SplitKind.iid
    ),
    alpha: Annotated[
        float, typer.Option("--alpha", help="Dirichlet concentration; smaller is more uneven.")
    ] = 0.5,
    central: Annotated[
        bool, typer.Option("--central/--no-central", help="Also train the central baseline.")
    ] = True,
    archive: Annotated[
        bool,
        typer.Option(
            "--archive", help="Keep a replay archive, and repeat every sum from it at the end."
        ),
    ] = False,
    robust: Annotated[
        bool,
        typer.Option("--robust", help="A validator judges every update, by the default rule."),
    ] = False,
    attackers: Annotated[
        int | None,
        typer.Option(
            "--attackers",
            metavar="N",
            help="So many institutions plant a backdoor [default: 1 with --robust, else 0].",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a whole federation on this machine: coordinator, clients and verifier as processes.

    Makes keys, enrolments and a charter, trains with differential privacy over encrypted loopback
    connections with secure aggregation, verifies the evidence, and writes DIR/adapter (a PEFT
    folder), DIR/bundle (evidence for `audit verify`) and DIR/metrics.json; with --archive also
    DIR/archive, for `audit verify --replay`. With --robust one institution attacks and a validator
    excludes it; --attackers 1 without --robust shows what the attack does where nobody judges.
    """
    attacking = int(robust) if attackers is None else attackers
    if privacy is None:
        privacy = DemoPrivacy.none if robust or attacking else DemoPrivacy.local
    options = DemoOptions(
        clients=clients,
        rounds=rounds,
        suite=suite.value,
        privacy=privacy.value,
        epsilon=epsilon,
        data=data,
        text_column=text_column,
        label_column=label_column,
        out=out,
        seed=seed,
        split=split.value,
        alpha=alpha,
        central=central,
        archive=archive,
        robust=robust,
        attackers=attacking,
        json=as_json,
    )
    require("zmq", "torch", "transformers", "peft")
    if privacy in (DemoPrivacy.local, DemoPrivacy.shared_noise):
        require("opacus")
    # Read when torch loads: threads that wait for each other give the core back meanwhile.  The
    # default spins, which on a busy machine takes longer than the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from secure_fedfm.demo.run import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(options))
