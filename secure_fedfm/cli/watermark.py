"""`watermark claim`, and the place where the other verbs about marks are hung in. On the base
install: no torch, no transport."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.charter_view import open_charter
from fedfm_audit.storage import write_durably
from fedfm_audit.watermark.adapter_suspect import AdapterSuspect
from fedfm_audit.watermark.capacity import (
    DEFAULT_CHANGE,
    PRIVATE_CHANGE,
    WEAKEST_STRENGTH,
    check_capacity,
    choose_size,
    choose_strength,
)
from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.commitment import MarkKey
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import system_random
from fedfm_protocols.enrolment import open_enrolment
from secure_fedfm.cli.charter_files import read_charter_file
from secure_fedfm.cli.options import JsonOption, SiteOption
from secure_fedfm.cli.outcome import EPILOG, require
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.watermark_judging import dispute, plain_errors, trace_copy, verify
from secure_fedfm.cli.watermark_probing import probe, verify_predictions
from secure_fedfm.enrolling import check_name
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.storage.keys import save_identity
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.owned import key_path, save_mark

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_TAKEN = ("identity", "transport", "log", "log-next", "enrolment", "charter", "metrics")


class Purpose(StrEnum):
    """What a claim is for."""

    ownership = "ownership"
    fingerprint = "fingerprint"


class Mark(StrEnum):
    """Which mark of a federation."""

    own = "own"
    consortium = "consortium"


@app.callback()
def group() -> None:
    """Claim, find and judge ownership marks in adapters; trace leaked copies. Offline.

    A federation whose charter names marks (`claim --for`, then `charter new --mark`) writes them in
    a round after the last one of training; `export` writes fingerprints. Formats: audit/README.md,
    "Marks".
    """


app.command("verify", epilog=EPILOG)(verify)
app.command("dispute", epilog=EPILOG)(dispute)
app.command("trace", epilog=EPILOG)(trace_copy)
app.command("probe", epilog=EPILOG)(probe)
app.command("verify-predictions", epilog=EPILOG)(verify_predictions)


@app.command("claim", epilog=EPILOG)
def claim(
    site: SiteOption,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="A PEFT adapter of the shape to be marked; its values do not matter.",
        ),
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(
            "--draft",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Instead: a charter's draft (`charter new`), for federation, base model and the "
            "shape of its adapter (loads the model).",
        ),
    ] = None,
    for_: Annotated[
        Mark | None,
        typer.Option(
            "--for",
            help="A mark that a charter shall name: this client's own, or the consortium's, which "
            "it keeps. Writes the file for `charter new --mark`.",
        ),
    ] = None,
    charter: Annotated[
        Path | None,
        typer.Option(
            "--charter",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Takes federation and base model from there.",
        ),
    ] = None,
    federation: Annotated[
        str | None, typer.Option("--federation", help="Its name, without a charter.")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="HEX", help="SHA-256 of its weights, the same."),
    ] = None,
    purpose: Annotated[Purpose, typer.Option("--purpose", help="What it is for.")] = (
        Purpose.ownership
    ),
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Directions N; by default what fits, up to 1024."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", min=0.01, help="kappa; by default what fits, up to 2."),
    ] = None,
    keys: Annotated[
        int, typer.Option("--keys", help="Sub-keys: disputes to come, or recipients.")
    ] = 1,
    max_change: Annotated[
        float | None,
        typer.Option(
            "--max-change",
            help=f"Largest predicted relative change of B A; by default {DEFAULT_CHANGE:g}, and "
            f"{PRIVATE_CHANGE:g} where the draft has a privacy mode.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What to call the files.")] = "mark",
    as_json: JsonOption = False,
) -> None:
    """Draw a mark's key, commit to it and sign the claim; do this before round 1.

    Writes DIR/keys/NAME.pem (secret, readable by its owner only, encrypted if
    SECURE_FEDFM_KEY_PASSPHRASE is set) and DIR/NAME.json (the claim, public). Neither is ever
    overwritten. Refuses a size that the adapter cannot carry.
    """
    check_name(name)
    if name in _TAKEN:
        raise ConfigurationError(f"the name {name} is taken by a site's own; choose another --name")
    folder = Site(site)
    key_file, claim_file = folder.root / "keys" / f"{name}.pem", folder.root / f"{name}.json"
    if for_ is not None:
        name = f"mark-{for_.value}"
        key_file, claim_file = key_path(folder, for_.value), folder.root / f"{name}.json"
    if claim_file.exists():
        raise ConfigurationError(f"{claim_file} exists already; choose another --name")
    if (adapter is None) == (draft is None):
        raise typer.BadParameter("give --adapter, or --draft")
    with plain_errors():
        if draft is not None:
            federation, base_model, modules, private = _drafted(draft)
        else:
            federation, base_model = _federation(charter, federation, base_model)
            modules, private = _modules(adapter), False
        if max_change is None:
            max_change = PRIVATE_CHANGE if private else DEFAULT_CHANGE
        identity = folder.identity()
        copies = keys if purpose == "ownership" else 1
        sizing = WEAKEST_STRENGTH if private and strength is None else strength
        size = size or choose_size(modules, sizing, copies, max_change)
        strength = strength or choose_strength(modules, size * copies, max_change)
        made = Claim(
            purpose=purpose.value,
            federation=federation,
            identity=identity.public,
            base_model=base_model,
            modules=modules,
            size=size,
            strength=strength,
            keys=keys,
        )
        rho = check_capacity(made, max_change)
        key = MarkKey.generate(system_random)
        committed = key.commit(made, identity)
    leaf = None
    if for_ is None:
        # Stored as the 32 bytes of an Ed25519 key: mode, passphrase and refusals are those of keys.
        save_identity(key_file, IdentityKey(key.secret))
    else:
        client = open_enrolment(folder.enrolment_file.read_bytes()).name
        leaf = save_mark(folder, client, for_.value, committed, key)
    write_durably(claim_file, committed.encode() + b"\n", folder.root)
    say(f"wrote {claim_file}: {made.size} directions x {made.keys}, {len(modules)} modules")
    say(f"  commitment {committed.commitment.hex()}")
    say(f"  predicted change {rho:.3f} of the adapter's norm")
    if leaf is not None:
        say(f"  commitment for the charter and the log: {leaf}")
    say(f"  secret key in {key_file}; without it the mark can never be shown")
    if as_json:
        emit(
            {
                "claim": str(claim_file),
                "key": str(key_file),
                **({} if leaf is None else {"leaf": str(leaf)}),
                "commitment": committed.commitment.hex(),
                "claim_hash": made.digest().hex(),
                "size": made.size,
                "keys": made.keys,
                "capacity": made.capacity,
                "relative_change": round(rho, 4),
            }
        )


def _modules(adapter: Path | None) -> tuple[TargetModule, ...]:
    if adapter is None:
        raise typer.BadParameter("give --adapter, or --draft")
    return AdapterSuspect.open(adapter).modules()


def _drafted(draft: Path) -> tuple[str, str, tuple[TargetModule, ...], bool]:
    """Federation, base model and layers to be marked, from a charter's draft, and whether it has a
    privacy mode."""
    charter = read_charter_file(draft).charter
    require("torch", "transformers", "peft")
    from secure_fedfm.founding import learning_facts  # noqa: PLC0415 - loads torch
    from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec  # noqa: PLC0415

    model = ModelSpec(charter.model.name, charter.model.sha256)
    task = TaskSpec.from_json(charter.task.model_dump(mode="json"))
    *_, modules = learning_facts(model, AdapterSpec.from_json(charter.adapter), task, None)
    private = charter.privacy.mode != "none"
    return charter.federation, charter.model.sha256, modules, private


def _federation(
    charter: Path | None, federation: str | None, base_model: str | None
) -> tuple[str, str]:
    """Name and base model, from a charter or from the options."""
    if charter is not None:
        if federation is not None or base_model is not None:
            raise typer.BadParameter("a charter says both; leave --federation, --base-model out")
        view = open_charter(charter.read_bytes())
        return view.federation, view.base_model
    if federation is None or base_model is None:
        raise typer.BadParameter("give --charter, or both --federation and --base-model")
    return federation, base_model.lower()
