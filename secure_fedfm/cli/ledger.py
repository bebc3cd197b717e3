"""`ledger`: what privacy cost, what is left, and what settings would cost; on the base install."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.budget import MAX_FORECAST, Budget, forecast, spent_of
from fedfm_audit.privacy.entries import figure
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    CompletedRound,
    CompletedSession,
    Event,
    GaussianSteps,
    HyperparameterTrials,
    LatticeSteps,
)
from fedfm_audit.privacy.in_words import epsilon_text, if_more_collude_lines
from fedfm_audit.privacy.terms import PrivacyTerms
from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from secure_fedfm.cli.ledger_files import LedgerFiles, ReadLedger, read_ledgers
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import EPILOG, Exit
from secure_fedfm.cli.output import emit, say
from secure_fedfm.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

TABLE_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)

PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="Site folder of a client, or bundle (folder or zip).", exists=True
    ),
]
FullOption = Annotated[
    bool,
    typer.Option("--full", help="Recompute PLD figures too (seconds for each distinct state)."),
]
NoiseOption = Annotated[
    float, typer.Option("--noise-multiplier", metavar="Z", help="Noise over clip, on the sum.")
]
RateOption = Annotated[
    float, typer.Option("--sampling-rate", metavar="Q", help="Poisson sampling rate; 1 is none.")
]
DeltaOption = Annotated[float, typer.Option("--delta", metavar="D", help="Delta.")]


@app.callback()
def group() -> None:
    """Privacy spent and left: ledgers of a site or bundle, and the cost of settings.

    Adjacency is add/remove of one unit. A signature on an entry proves who claims it, not that
    noise was added.
    """


@app.command("show", epilog=EPILOG)
def show(path: PathArgument, full: FullOption = False, as_json: JsonOption = False) -> None:
    """Show every entry of the privacy ledgers at PATH with its figures, recomputed.

    Ends with 1 if an entry is altered, missing or out of order, or states other figures than its
    events give. The log around a bundle is checked by `ledger verify`.
    """
    found = read_ledgers(path, full=full)
    if not found.ledgers:
        say(f"no ledger entries; the charter's privacy mode is {found.charter.privacy['mode']}")
    terms = found.terms
    for ledger in found.ledgers:
        lines = _ledger_lines(ledger)
        if terms is not None:
            lines += if_more_collude_lines(terms, (entry.event for entry in ledger.entries))
        say("\n".join(lines))
    if as_json:
        emit(
            {
                "federation": found.charter.federation,
                "privacy": dict(found.charter.privacy),
                "ledgers": [_ledger_json(ledger) for ledger in found.ledgers],
            }
        )
    wrong = any(ledger.problems for ledger in found.ledgers)
    raise typer.Exit(Exit.CHECK_FAILED if wrong else Exit.OK)


@app.command("verify", epilog=EPILOG)
def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Bundle folder or zip.", exists=True)
    ],
    full: FullOption = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle and show what came of its privacy ledgers (step 6 of `audit verify`).

    Ends with 1 if the bundle or a ledger fails, or if there is no privacy claim to check.
    """
    report = verify_bundle(bundle, full=full)
    step = report.step(6)
    say(f"{step.status.value}: {step.title}: {step.detail}")
    for failure in step.failures:
        say(f"  {failure.place}: {failure.reason}")
    others = [
        other.number
        for other in report.steps
        if other.number != step.number and other.status is Status.FAILED
    ]
    if others:
        say(f"steps {', '.join(map(str, others))} failed too; run `audit verify` for details")
    if as_json:
        document = report.to_json()
        emit(
            {
                "verdict": step.status.value,
                "bundle": document["verdict"],
                "step": document["steps"][step.number],
            }
        )
    fine = report.ok and step.status is Status.VERIFIED
    raise typer.Exit(Exit.OK if fine else Exit.CHECK_FAILED)


@app.command("forecast", epilog=EPILOG)
def forecast_rounds(
    path: PathArgument,
    accountant: Annotated[
        str,
        typer.Option(
            "--accountant",
            metavar="pld|rdp",
            help="Which bound decides: pld is tighter, rdp answers at once.",
        ),
    ] = "pld",
    as_json: JsonOption = False,
) -> None:
    """Forecast how many more rounds fit into each budget at the charter's settings."""
    found = read_ledgers(path)
    terms = found.terms
    if terms is None:
        raise ConfigurationError(
            "the charter's privacy mode is none: there is no budget and nothing to forecast"
        )
    if accountant not in ("pld", "rdp"):
        raise ConfigurationError(f"--accountant {accountant}; expected pld or rdp")
    budget = Budget(terms.epsilon, terms.delta, accountant)
    rows = [_forecast_row(name, events, terms, budget) for name, events in _histories(found)]
    say(f"the charter plans {found.charter.rounds} rounds in all")
    planned = [terms.planned_event()] * found.charter.rounds
    say("\n".join(if_more_collude_lines(terms, planned)))
    if as_json:
        emit(
            {
                "epsilon": terms.epsilon,
                "delta": terms.delta,
                "accountant": accountant,
                "rounds": found.charter.rounds,
                "institutions": rows,
            }
        )


@app.command("epsilon", epilog=EPILOG)
def epsilon(
    noise_multiplier: NoiseOption,
    delta: DeltaOption,
    sampling_rate: RateOption = 1.0,
    steps: Annotated[int, typer.Option("--steps", metavar="T", help="Number of steps.")] = 1,
    table: Annotated[
        bool, typer.Option("--table", help="Also the cost of half to four times the noise.")
    ] = False,
    honest_shares: Annotated[
        int | None,
        typer.Option(
            "--honest-shares",
            metavar="H",
            min=1,
            help="The noise is shared by so many: also the cost when some of them collude.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute epsilon of Poisson-sampled Gaussian steps, by RDP and by PLD.

    Both are upper bounds; the smaller one is the headline. Adjacency is add/remove.
    """
    rdp, pld = _cost(noise_multiplier, sampling_rate, steps, delta)
    say(f"epsilon {min(rdp, pld):.4f} at delta {delta:g} (RDP {rdp:.4f}, PLD {pld:.4f})")
    document: dict[str, object] = {"epsilon_rdp": figure(rdp), "epsilon_pld": figure(pld)}
    if table:
        rows = []
        say(f"{'noise':>10}  {'RDP':>10}  {'PLD':>10}")
        for factor in TABLE_FACTORS:
            noise = noise_multiplier * factor
            by_rdp, by_pld = _cost(noise, sampling_rate, steps, delta)
            say(f"{noise:>10.4g}  {by_rdp:>10.4f}  {by_pld:>10.4f}")
            rows.append(
                {
                    "noise_multiplier": noise,
                    "epsilon_rdp": figure(by_rdp),
                    "epsilon_pld": figure(by_pld),
                }
            )
        document["table"] = rows
    if honest_shares is not None:
        document["colluding"] = _colluding(
            honest_shares, noise_multiplier, sampling_rate, steps, delta
        )
    if as_json:
        emit(document)


def _colluding(
    shares: int, noise: float, rate: float, steps: int, delta: float
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for known in range(min(shares, 4) + 1):
        left = shares - known
        cost = (
            min(_cost(noise * math.sqrt(left / shares), rate, steps, delta)) if left else math.inf
        )
        say(f"{known} of {shares} shares of the noise known: {epsilon_text(cost)}")
        rows.append({"colluding": known, "epsilon": figure(cost)})
    return rows


def _cost(noise: float, rate: float, steps: int, delta: float) -> tuple[float, float]:
    event = GaussianSteps(noise_multiplier=noise, clip=1.0, sampling_rate=rate, steps=steps)
    cost = spent([event], delta)
    return cost.rdp.epsilon, math.inf if cost.pld is None else cost.pld


def _histories(found: LedgerFiles) -> Sequence[tuple[str, tuple[Event, ...]]]:
    """Events by institution; before the first charge, the forecast is the same for everybody."""
    if not found.ledgers:
        return (("every institution", ()),)
    return [
        (ledger.institution, tuple(entry.event for entry in ledger.entries))
        for ledger in found.ledgers
    ]


def _forecast_row(
    name: str, events: tuple[Event, ...], terms: PrivacyTerms, budget: Budget
) -> dict[str, object]:
    charged = [event for event in events if isinstance(event, GaussianSteps | LatticeSteps)]
    event = charged[-1] if charged else terms.planned_event()
    epsilon, left = spent_of(events, budget), forecast(events, event, budget)
    say(
        f"{name}: epsilon {epsilon:.4g} of {terms.epsilon:g} at delta {terms.delta:g} spent; "
        f"{f'at least {left}' if left == MAX_FORECAST else left} more rounds fit"
    )
    return {"institution": name, "epsilon": figure(epsilon), "rounds_left": left}


def _ledger_lines(ledger: ReadLedger) -> list[str]:
    last = ledger.entries[-1]
    lines = [
        f"{ledger.institution}: unit {last.unit}, {last.adjacency}, against {last.adversary.view}"
        f" with {last.adversary.colluding} colluding; "
        f"epsilon {ledger.epsilon:.4g} of {last.budget.epsilon:g} at delta {last.budget.delta:g}"
    ]
    for entry in ledger.entries:
        pld = entry.cumulative.epsilon_pld
        lines.append(
            f"  {entry.sequence:>4}  round {entry.round:<4} {_described(entry.event):<58} "
            f"RDP {_number(entry.cumulative.epsilon_rdp)}  "
            f"PLD {'-' if pld is None else _number(pld)}  left {entry.budget.left:.4f}"
        )
    if ledger.open_charges:
        lines.append(
            f"  not settled, and spent all the same: {', '.join(map(str, ledger.open_charges))}"
        )
    lines += [f"  entry {sequence}: {problem}" for sequence, problem in ledger.problems]
    return lines


def _number(written: float | str) -> str:
    return written if isinstance(written, str) else f"{written:.4f}"


def _described(event: Event) -> str:
    match event:
        case GaussianSteps() | LatticeSteps():
            return (
                f"{event.type}, noise {event.noise_multiplier:.4g}, rate {event.sampling_rate:g}, "
                f"{event.steps} steps"
            )
        case HyperparameterTrials():
            return f"{event.trials} trials of {_described(event.event)}"
        case ClearRelease():
            return f"in clear: {event.what}"[:58]
        case CompletedRound():
            return f"charge {event.charge} gave a result of {event.accepted} updates"
        case CompletedSession():
            return (
                f"charge {event.charge} gave {event.steps} sums of at least {event.accepted} "
                "institutions"
            )
        case AbortedRound():
            return f"charge {event.charge} gave no result"


def _ledger_json(ledger: ReadLedger) -> dict[str, object]:
    return {
        "institution": ledger.institution,
        "epsilon": figure(ledger.epsilon),
        "open_charges": list(ledger.open_charges),
        "problems": [
            {"sequence": sequence, "reason": problem} for sequence, problem in ledger.problems
        ],
        "entries": [entry.to_json() for entry in ledger.entries],
    }
