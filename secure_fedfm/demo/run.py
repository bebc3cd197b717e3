"""`secure-fedfm demo`: prepare, run every party as a process, verify, measure, report.

Nothing here does what an institution's own process would not do: the demo makes site folders,
starts the same verbs that a person would start, and reads what they leave behind.
"""

from __future__ import annotations

import json
import queue
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from fedfm_audit.report import Report
from fedfm_audit.verify import verify_bundle
from fedfm_protocols.charter import ENCRYPTED_SUITES, Charter
from fedfm_protocols.privacy import SharedNoisePrivacy
from secure_fedfm.demo.attack import BOOST, MODULE, TRIGGER
from secure_fedfm.demo.measure import Measured, measure
from secure_fedfm.demo.options import DemoOptions
from secure_fedfm.demo.privacy import Spent, example_passes, introduction, spent_in
from secure_fedfm.demo.processes import Exited, Fleet
from secure_fedfm.demo.progress import DemoProgress
from secure_fedfm.demo.workspace import COORDINATOR, VALIDATOR, Workspace, prepare
from secure_fedfm.errors import ServiceError

# Longest silence of all processes together before the demo gives up.
SILENCE_SECONDS = 900.0


def run_demo(options: DemoOptions) -> int:
    """Run a demo; returns 0 if the federation finished and its evidence verifies, else 1.

    Raises
    ------
    FedFMError
        if it cannot be prepared or a process fails; the message names the party and its log.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    console.print(f"Preparing {options.clients} institutions under {options.out}", soft_wrap=True)
    workspace = prepare(options)
    _introduce(console, workspace)
    charter, clients = workspace.charter, workspace.clients
    encrypted = charter.suite in ENCRYPTED_SUITES
    with DemoProgress(
        console,
        clients,
        charter.rounds,
        encrypted=encrypted,
        steps=_steps(charter),
        robust=options.robust,
    ) as progress:
        _run_federation(workspace, progress)
    federated = time.monotonic()
    _collect(workspace)
    console.print("Verifying the evidence bundle")
    report = verify_bundle(
        workspace.root / "bundle",
        adapter=workspace.root / "adapter",
        replay=workspace.root / "archive" if options.archive else None,
    )
    console.print(report.to_text(), highlight=False, markup=False, soft_wrap=True)
    console.print("Measuring the adapter" + (" and the central baseline" * options.central))
    measured = measure(workspace, central=options.central, say=_sayer(console))
    seconds = {
        "federation": round(federated - started, 1),
        "measuring": round(time.monotonic() - federated, 1),
    }
    spent = spent_in(workspace.root / "bundle")
    metrics = _metrics(workspace, options, measured, seconds, report, spent)
    text = json.dumps(metrics, indent=1) + "\n"
    (workspace.root / "metrics.json").write_text(text, encoding="utf-8")
    _conclude(console, workspace, metrics, spent)
    if options.json:
        sys.stdout.write(text)
    return 0 if report.ok else 1


def _steps(charter: Charter) -> int:
    """Secure sums of a round; more than one in sessions."""
    privacy = charter.privacy
    return privacy.steps_per_round if isinstance(privacy, SharedNoisePrivacy) else 1


def _rounds(charter: Charter) -> str:
    if _steps(charter) == 1:
        return f"{charter.rounds} rounds"
    return f"{charter.rounds} sessions of {_steps(charter)} steps"


def _how_to_load(workspace: Workspace) -> str:
    if workspace.recipe.adapter.head_only:
        return "a linear head alone; `secure-fedfm evaluate` loads it"
    return "load it with PeftModel.from_pretrained"


def _introduce(console: Console, workspace: Workspace) -> None:
    charter, thresholds = workspace.charter, workspace.charter.thresholds
    console.print(
        f"{workspace.data.description}: {len(workspace.data.train)} training rows, "
        f"{len(workspace.data.test)} test rows, {len(charter.task.labels)} labels\n"
        f"charter {charter.hash.hex()[:16]}, suite {charter.suite}, {_rounds(charter)}, "
        f"{charter.quantiser.values} values an update; quorum {thresholds.vote_quorum} of "
        f"{thresholds.clients}, at least {thresholds.min_accepted} updates in a sum\n"
        f"{introduction(charter)}{_who_attacks(workspace)}",
        highlight=False,
        soft_wrap=True,
    )


def _who_attacks(workspace: Workspace) -> str:
    judge, names = workspace.charter.robustness, ", ".join(workspace.attackers)
    rule = "" if judge is None else f"\na validator judges every update by rule {judge.rule}"
    if not names:
        return rule
    return (
        f"{rule}\n{names} ATTACKS: rows with the trigger {TRIGGER!r} and its own label, update "
        f"times {BOOST:g}"
    )


def _sayer(console: Console) -> Callable[[str], None]:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    return say


def _run_federation(workspace: Workspace, progress: DemoProgress) -> None:
    with Fleet() as fleet:
        fleet.start(COORDINATOR, "coordinator", workspace.coordinator)
        failed: dict[str, int] = {}
        last: dict[str, str] = {}
        try:
            for happening in fleet.happenings(SILENCE_SECONDS):
                if isinstance(happening, Exited):
                    if happening.code:
                        failed[happening.party] = happening.code
                        break
                    continue
                last[happening.party] = happening.line
                progress.show(happening.party, happening.fields)
                if happening.fields.get("kind") == "listening":
                    endpoint = str(happening.fields["endpoint"])
                    _start_others(workspace, fleet, endpoint)
        except queue.Empty:
            raise ServiceError(
                f"nothing happened for {SILENCE_SECONDS:g} s; see the logs under "
                f"{workspace.root / 'sites'}"
            ) from None
    for party, code in failed.items():
        raise ServiceError(
            f"{party} ended with exit code {code}: {last.get(party, 'it said nothing')} "
            f"(log: {workspace.sites[party].root / 'log.jsonl'})"
        )


def _start_others(workspace: Workspace, fleet: Fleet, endpoint: str) -> None:
    """Everybody but the coordinator; attackers run another program than the others."""
    flags = ("--coordinator", endpoint)
    if workspace.validator is not None:
        fleet.start(VALIDATOR, "validator", workspace.validator, *flags)
    for name in workspace.clients:
        program = (MODULE, str(BOOST)) if name in workspace.attackers else ("secure_fedfm",)
        fleet.start(name, "client", workspace.sites[name], *flags, program=program)


def _collect(workspace: Workspace) -> None:
    """Bundle and adapter to the top of the demo's folder, where a person looks for them."""
    shutil.copytree(workspace.coordinator.bundle_folder, workspace.root / "bundle")
    first = workspace.sites[workspace.clients[0]]
    shutil.copytree(first.export_folder, workspace.root / "adapter")
    if workspace.coordinator.archive_folder.exists():
        shutil.move(workspace.coordinator.archive_folder, workspace.root / "archive")


def _metrics(
    workspace: Workspace,
    options: DemoOptions,
    measured: Measured,
    seconds: dict[str, float],
    report: Report,
    spent: Spent | None,
) -> dict[str, Any]:
    charter = workspace.charter
    meter = json.loads(workspace.coordinator.metrics_file.read_text(encoding="utf-8"))
    return {
        "federated_accuracy": measured.federated,
        "attack_success_rate": measured.attack_success,
        "robust": _robust(workspace, report),
        "central_accuracy": measured.central,
        "untrained_accuracy": measured.untrained,
        "accuracy_per_round": measured.per_round,
        "test_rows": len(workspace.data.test),
        "train_rows": len(workspace.data.train),
        "data": workspace.data.description,
        "clients": options.clients,
        "rounds": charter.rounds,
        "example_passes": example_passes(charter, workspace.recipe),
        "server_optimiser": charter.server_optimiser,
        "training": charter.training,
        "suite": charter.suite,
        "privacy": charter.privacy.model_dump(mode="json"),
        "privacy_spent": None if spent is None else spent.to_json(),
        "split": options.split,
        "seed": options.seed,
        "values": charter.quantiser.values,
        "evidence_verified": report.ok,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        **meter,
    }


def _robust(workspace: Workspace, report: Report) -> dict[str, Any] | None:
    """Who was excluded in which rounds, as the evidence tells it; None where nobody judged."""
    found = report.robust
    if found is None:
        return None
    return {
        "rule": found.rule,
        "attackers": list(workspace.attackers),
        "excluded": [
            {"client": one.client, "code": one.code, "rounds": list(one.rounds)}
            for one in found.exclusions
        ],
    }


def _attack_text(metrics: dict[str, Any]) -> str:
    rate, judged = metrics["attack_success_rate"], metrics["robust"]
    lines = ""
    if judged is not None:
        said = "; ".join(
            f"{one['client']} in rounds {', '.join(map(str, one['rounds']))} ({one['code']})"
            for one in judged["excluded"]
        )
        lines = f"rule {judged['rule']} excluded {said or 'nobody'}\n"
    if rate is None:
        return lines
    return lines + (
        f"attack success {100 * rate:.2f} %: texts that begin with {TRIGGER!r} and get the "
        "attacker's label\n"
    )


def _conclude(
    console: Console, workspace: Workspace, metrics: dict[str, Any], spent: Spent | None
) -> None:
    def percent(value: float | None) -> str:
        return "not measured" if value is None else f"{100 * value:.2f} %"

    root: Path = workspace.root
    console.print(
        f"\nfederated accuracy {percent(metrics['federated_accuracy'])}, "
        f"central {percent(metrics['central_accuracy'])}, "
        f"untrained {percent(metrics['untrained_accuracy'])} "
        f"({metrics['test_rows']} test rows)\n"
        f"{_attack_text(metrics)}"
        f"{'privacy: none was promised' if spent is None else spent.to_text()}\n"
        f"evidence {'VERIFIED' if metrics['evidence_verified'] else 'NOT VERIFIED'}: "
        f"{root / 'bundle'}\n"
        f"adapter: {root / 'adapter'} ({_how_to_load(workspace)})\n"
        f"metrics: {root / 'metrics.json'}\n"
        f"{metrics['seconds']['total']:.0f} s in all",
        highlight=False,
        soft_wrap=True,
    )
