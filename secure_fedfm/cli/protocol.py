"""`protocol`: scripted runs of the protocol, on the base install (no torch, no transport)."""

from __future__ import annotations

import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import EPILOG, Exit
from secure_fedfm.cli.output import emit, say, table

# Scenarios take half a second to load, which no other verb should wait for.
if TYPE_CHECKING:
    from fedfm_protocols.scenario.form import Scenario
    from fedfm_protocols.scenario.runner import Result

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Play, explain and list protocol scenarios: attacks and faults, without a network."""


@app.command("run", epilog=EPILOG)
def run(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="[SCENARIO]", help="Name of a shipped one, or a .toml or .py file."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every shipped scenario.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=2**32 - 1, help="Another seed than the scenario's."),
    ] = None,
    session: Annotated[
        int,
        typer.Option(
            "--session",
            metavar="STEPS",
            min=1,
            max=1024,
            help="Play every round as a session of so many steps.",
        ),
    ] = 1,
    step: Annotated[
        int,
        typer.Option("--step", min=0, help="Which step of it goes wrong, from 0."),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", file_okay=False, help="Write transcripts there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Play scenarios on the real state machines, in virtual time; compare with what they expect.

    A .py file must define `scenario`; it is executed. Ends with 1 if a verdict is not the
    expected one.
    """
    from fedfm_protocols.scenario.form import with_seed  # noqa: PLC0415
    from fedfm_protocols.scenario.in_session import in_session  # noqa: PLC0415
    from fedfm_protocols.scenario.runner import run_scenario  # noqa: PLC0415
    from fedfm_protocols.scenario.suites import missing_for  # noqa: PLC0415
    from fedfm_protocols.scenario.transcript import verdict_view  # noqa: PLC0415

    if (scenario is None) == (not everything):
        raise typer.BadParameter("name one scenario, or say --all")
    results: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for one in _chosen(scenario):
        if everything and session > 1 and one.federation.session > 1:
            continue  # about sessions itself
        missing = missing_for(one.federation.suite)
        if everything and missing:
            say(f"skip    {one.name:<28}         {missing}")
            skipped[one.name] = missing
            continue
        started = time.monotonic()
        seeded = one if seed is None else with_seed(one, seed)
        result = run_scenario(in_session(seeded, session, step))
        _report(result, time.monotonic() - started)
        results[one.name] = verdict_view(result.verdict)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{one.name}.json").write_bytes(result.transcript)
    ok = all(verdict["ok"] for verdict in results.values())
    right = sum(verdict["ok"] for verdict in results.values())
    left_out = f", {len(skipped)} skipped" if skipped else ""
    say(f"{right} of {len(results)} scenarios as expected{left_out}")
    if as_json:
        emit({"ok": ok, "scenarios": results, "skipped": skipped})
    raise typer.Exit(Exit.OK if ok else Exit.CHECK_FAILED)


def _chosen(scenario: str | None) -> Iterator[Scenario]:
    from fedfm_protocols.errors import ScenarioError  # noqa: PLC0415
    from fedfm_protocols.scenario.form import Scenario, parse_scenario  # noqa: PLC0415
    from fedfm_protocols.scenario.library import shipped, shipped_names  # noqa: PLC0415

    if scenario is None:
        yield from (shipped(name) for name in shipped_names())
    elif scenario.endswith(".toml"):
        path = Path(scenario)
        yield parse_scenario(path.read_text("utf-8"), name=path.stem)
    elif scenario.endswith(".py"):
        found = runpy.run_path(scenario).get("scenario")
        if not isinstance(found, Scenario):
            raise ScenarioError(f"{scenario} defines no `scenario` of type Scenario")
        yield found
    else:
        yield shipped(scenario)


def _report(result: Result, seconds: float) -> None:
    verdict = result.verdict
    word = "ok    " if verdict.ok else "FAILED"
    say(f"{word}  {result.scenario.name:<28} {seconds:5.1f} s  {result.scenario.title}")
    for line in verdict.failures:
        place = f"round {line.round}: " if line.round else ""
        say(f"        {place}{line.what}: expected {line.expected!r}, found {line.found!r}")


@app.command("explain", epilog=EPILOG)
def explain(
    transcript: Annotated[
        Path, typer.Argument(metavar="TRANSCRIPT", exists=True, dir_okay=False, help="From --out.")
    ],
) -> None:
    """Tell a transcript step by step: who said what, what an act made of it, who refused it."""
    from fedfm_protocols.scenario.explain import explain as explain_lines  # noqa: PLC0415
    from fedfm_protocols.scenario.transcript import read_transcript  # noqa: PLC0415

    for line in explain_lines(read_transcript(transcript.read_bytes())):
        print(line)


@app.command("list", epilog=EPILOG)
def list_scenarios(
    acts: Annotated[
        bool, typer.Option("--acts", help="What can be done in a scenario, instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Name every shipped scenario, or every act that a scenario can use."""
    from fedfm_protocols.scenario.acts import REGISTRY  # noqa: PLC0415
    from fedfm_protocols.scenario.library import shipped, shipped_names  # noqa: PLC0415

    if acts:
        rows = {
            entry.name: {"by": entry.role, "summary": entry.summary}
            for entry in sorted(REGISTRY.values(), key=lambda e: (e.role, e.name))
        }
        say(table({name: f"[{row['by']}] {row['summary']}" for name, row in rows.items()}))
        if as_json:
            emit({"acts": rows})
        return
    found = [shipped(name) for name in shipped_names()]
    say(table({one.name: one.title for one in found}))
    if as_json:
        emit(
            {
                "scenarios": [
                    {"name": o.name, "title": o.title, "row": o.row, "steps": o.steps}
                    for o in found
                ]
            }
        )
