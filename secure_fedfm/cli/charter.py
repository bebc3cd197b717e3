"""`charter new`, `charter sign` and `charter show`: what the founders agree on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.charter_files import CharterFile, read_charter_file, sign_file, write_draft
from secure_fedfm.cli.charter_rule import choose_rule
from secure_fedfm.cli.charter_view import charter_document, charter_text
from secure_fedfm.cli.options import JsonOption, LabelColumnOption, SiteOption, TextColumnOption
from secure_fedfm.cli.outcome import EPILOG, require
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.settings import load_config, require_role
from secure_fedfm.enrolling import log_public_file, read_enrolment, read_log_public
from secure_fedfm.storage.site import Site

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

CharterArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Charter, draft or signed.")]


class TaskKind(StrEnum):
    """What is learned."""

    classification = "classification"
    causal_lm = "causal-lm"


class SuiteName(StrEnum):
    """Protection suites of this version."""

    layered = "layered"
    masked = "masked"
    sealed = "sealed"
    clear = "clear"


class PrivacyMode(StrEnum):
    """Privacy modes of this version."""

    none = "none"
    local = "local"
    client = "client"
    shared_noise = "shared-noise"


class MechanismName(StrEnum):
    """Discrete noise that can be shared."""

    discrete_gaussian = "discrete-gaussian"
    skellam = "skellam"


@app.callback()
def group() -> None:
    """Draft, sign and read the charter that a federation runs under."""


@app.command("new", epilog=EPILOG)
def new(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="The draft to write.")
    ],
    federation: Annotated[
        str, typer.Option("--federation", metavar="NAME", help="Name of the federation.")
    ],
    coordinator_enrolment: Annotated[
        Path,
        typer.Option(
            "--coordinator-enrolment",
            metavar="FILE",
            help="The coordinator's enrolment.json.",
        ),
    ],
    client_enrolment: Annotated[
        list[Path],
        typer.Option(
            "--client-enrolment",
            metavar="FILE",
            help="A client's enrolment.json; repeat for each client.",
        ),
    ],
    log_key: Annotated[
        str | None,
        typer.Option(
            "--log-key",
            metavar="FILE|HEX",
            help="Public key of the log: the coordinator's log.pub or its 64 hex digits "
            "[default: log.pub beside the coordinator's enrolment].",
        ),
    ] = None,
    founders: Annotated[
        str | None,
        typer.Option("--founders", metavar="A,B,C", help="Who signs [default: all clients]."),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            "--quorum",
            metavar="K",
            help="So many founders make the charter valid [default: a majority].",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|PATH",
            help="Base model by hub name or folder [default: the packaged MiniLM encoder].",
        ),
    ] = None,
    model_folder: Annotated[
        Path | None,
        typer.Option(
            "--model-folder",
            metavar="DIR",
            file_okay=False,
            help="Where a model given by name lies on this machine.",
        ),
    ] = None,
    task: Annotated[TaskKind, typer.Option("--task", help="What is learned.")] = (
        TaskKind.classification
    ),
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="A,B,C", help="Labels in class order.")
    ] = None,
    labels_from: Annotated[
        str | None,
        typer.Option(
            "--labels-from", metavar="DATA", help="Take all labels of this data set, sorted."
        ),
    ] = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of training.")] = 3,
    suite: Annotated[SuiteName, typer.Option("--suite", help="Protection of updates.")] = (
        SuiteName.layered
    ),
    colluding: Annotated[
        int, typer.Option("--colluding", help="Clients that may conspire with the coordinator.")
    ] = 1,
    dropouts: Annotated[
        int | None,
        typer.Option(
            "--dropouts", help="Clients that may vanish in a round [default: 1, 0 of three]."
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            "--clip",
            help="Largest magnitude of an update's value [default: 4; with --privacy shared-noise, "
            "where it is of an institution's sum of gradients, what a whole step could reach].",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            help="Quantisation steps per unit [default: the largest power of two for which no "
            "sum overflows, at most 2**24].",
        ),
    ] = None,
    lane_bits: Annotated[
        int | None,
        typer.Option(
            "--lane-bits",
            metavar="24|32",
            help="Bits per value on the wire [default: 24 where that leaves the scale fine "
            "enough, else 32].",
        ),
    ] = None,
    privacy: Annotated[
        PrivacyMode,
        typer.Option(
            "--privacy",
            help="Differential privacy: none, of rows (local: own noise; shared-noise: noise that "
            "the institutions share), or of whole updates (client).",
        ),
    ] = PrivacyMode.none,
    epsilon: Annotated[
        float, typer.Option("--epsilon", help="Privacy budget of each institution or record.")
    ] = 8.0,
    delta: Annotated[float, typer.Option("--delta", help="Delta of that budget.")] = 1e-5,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows-per-institution",
            metavar="N",
            min=1,
            help="For --privacy local and shared-noise: a public guess, which nobody's rows are "
            "counted for.",
        ),
    ] = None,
    head_rounds: Annotated[
        int | None,
        typer.Option(
            "--head-rounds",
            metavar="N",
            min=0,
            help="local: the first N rounds train the head alone [default: 0].",
        ),
    ] = None,
    steps_per_round: Annotated[
        int | None,
        typer.Option(
            "--steps-per-round", metavar="S", help="shared-noise: steps of a session [default: 50]."
        ),
    ] = None,
    sampling_rate: Annotated[
        float | None,
        typer.Option(
            "--sampling-rate",
            metavar="Q",
            help="shared-noise: a row's chance in a step [default: 0.1].",
        ),
    ] = None,
    example_clip: Annotated[
        float | None,
        typer.Option(
            "--example-clip",
            metavar="C",
            help="shared-noise: norm of a row's gradient [default: 1].",
        ),
    ] = None,
    mechanism: Annotated[
        MechanismName | None,
        typer.Option("--mechanism", help="shared-noise: law of it [default: discrete-gaussian]."),
    ] = None,
    honest_shares: Annotated[
        int | None,
        typer.Option(
            "--honest-shares",
            metavar="H",
            help="shared-noise: institutions whose noise is all of it [default: fewest updates "
            "less those who may conspire; up to the fewest updates, if nobody does].",
        ),
    ] = None,
    spare_rounds: Annotated[
        int | None,
        typer.Option(
            "--spare-rounds",
            metavar="N",
            help="shared-noise: budget for so many rounds that fail; charges stand [default: 0].",
        ),
    ] = None,
    validator_enrolment: Annotated[
        Path | None,
        typer.Option(
            "--validator-enrolment",
            metavar="FILE",
            help="The validator's enrolment.json: it judges every update [default: nobody does].",
        ),
    ] = None,
    robust_rule: Annotated[
        str | None,
        typer.Option(
            "--robust-rule",
            metavar="NAME",
            help="By which rule; see docs/robust-rules.md [default: cosine-memory].",
        ),
    ] = None,
    robust_parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--robust-parameter",
            metavar="NAME=NUMBER",
            help="A parameter of the rule; repeat as needed.",
        ),
    ] = None,
    robust_root: Annotated[
        str | None,
        typer.Option(
            "--robust-root",
            metavar="CLIENT",
            help="The client with vetted data that rule fltrust compares the others with.",
        ),
    ] = None,
    norm_bound: Annotated[
        float | None,
        typer.Option(
            "--norm-bound", help="Largest L2 norm of an update that is measured [default: 64]."
        ),
    ] = None,
    key_rounds: Annotated[
        int | None,
        typer.Option(
            "--key-rounds",
            min=1,
            help="Rounds that are judged under one sketch key [default: 100].",
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            metavar="FILE.toml",
            dir_okay=False,
            help="Tables [training], [adapter] and [server_optimiser] over the defaults.",
        ),
    ] = None,
    mark: Annotated[
        list[Path] | None,
        typer.Option(
            "--mark",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A client's commitment to an ownership mark (`watermark claim --for`); repeat for "
            "each. They are written in a round after the last one of training.",
        ),
    ] = None,
    mark_norm_bound: Annotated[
        float | None,
        typer.Option(
            "--mark-norm-bound", help="Largest L2 norm of what one mark adds [default: 4]."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draft a charter from the parties' enrolments; signs nothing.

    Loads the base model to compute the length of an update and the hash of the initial adapter
    (needs the federation extra). The founders read the draft with `charter show` and sign it one
    after the other with `charter sign`.
    """
    # Cheap refusals first: a wrong file should not cost the seconds that torch takes to load.
    coordinator = read_enrolment(coordinator_enrolment)
    clients = [read_enrolment(path) for path in client_enrolment]
    public = read_log_public(log_key or log_public_file(coordinator_enrolment.parent))
    robust = choose_rule(
        None if validator_enrolment is None else read_enrolment(validator_enrolment),
        rule=robust_rule,
        parameters=robust_parameter,
        norm_bound=norm_bound,
        key_rounds=key_rounds,
        root=robust_root,
    )
    if robust is not None:
        robust.check(suite.value, privacy.value)
        robust.check_roster([client.name for client in clients])
    require("torch", "transformers", "peft")
    from secure_fedfm.cli.charter_terms import (  # noqa: PLC0415
        choose_model,
        choose_privacy,
        choose_task,
        offered,
        read_training_file,
        split_names,
    )
    from secure_fedfm.founding import draft_charter  # noqa: PLC0415
    from secure_fedfm.learning.weights import DEFAULT_MODEL  # noqa: PLC0415
    from secure_fedfm.privacy.recipe import SharedNoiseRequest  # noqa: PLC0415

    chosen_privacy = choose_privacy(
        privacy.value,
        epsilon,
        delta,
        rows,
        rounds,
        clip,
        {
            "steps_per_round": steps_per_round,
            "sampling_rate": sampling_rate,
            "example_clip": example_clip,
            "mechanism": None if mechanism is None else mechanism.value,
            "honest_shares": honest_shares,
            "spare_rounds": spare_rounds,
        },
        head_rounds=head_rounds,
    )
    plan, adapter, optimiser = read_training_file(
        training,
        rounds,
        causal=task is TaskKind.causal_lm,
        steps=chosen_privacy.optimiser(len(clients))
        if isinstance(chosen_privacy, SharedNoiseRequest)
        else None,
        votes=robust is not None and robust.votes and privacy.value == "none",
    )
    chosen_task = choose_task(task.value, labels, labels_from, text_column, label_column)
    spec, location = choose_model(model or DEFAULT_MODEL.name, model_folder)
    charter = draft_charter(
        federation=federation,
        coordinator=coordinator,
        clients=clients,
        log_public=public,
        model=spec,
        adapter=adapter,
        task=chosen_task,
        plan=plan,
        server_optimiser=optimiser,
        rounds=rounds,
        suite=suite.value,
        colluding=colluding,
        dropouts=dropouts,
        clip=clip,
        scale=scale,
        lane_bits=lane_bits,
        privacy=chosen_privacy,
        robust=robust,
        founders=None if founders is None else split_names(founders),
        quorum=quorum,
        location=location,
        marks=offered(mark),
        mark_norm_bound=mark_norm_bound,
    )
    write_draft(out, charter)
    say(f"wrote {out}, a draft that nobody has signed yet")
    _print(CharterFile(charter, b"", ()), out, as_json)


@app.command("sign", epilog=EPILOG)
def sign(site: SiteOption, file: CharterArgument, as_json: JsonOption = False) -> None:
    """Sign a charter as this founder; the first signature or a further one.

    FILE is rewritten with the signature added. A charter below this site's own [policy], or one
    that names other keys for this site than it has, is refused. Read it first: `charter show`.
    Once a quorum has signed, every party copies FILE to its SITE/charter.json.
    """
    folder = Site(site)
    config = load_config(folder)
    require_role(config, "client", folder)
    config.policy.site_policy().check_charter(read_charter_file(file).charter)
    signed = sign_file(file, folder, config.name)
    say(f"signed {file} as {config.name}")
    if signed.in_force:
        say("the quorum has signed: every party copies the file to its SITE/charter.json")
    _print(signed, file, as_json)


@app.command("show", epilog=EPILOG)
def show(file: CharterArgument, as_json: JsonOption = False) -> None:
    """Summarise a charter: parties, thresholds, training, its hash, and who has signed."""
    _print(read_charter_file(file), file, as_json)


def _print(found: CharterFile, path: Path, as_json: bool) -> None:
    say(charter_text(found))
    if as_json:
        emit(charter_document(found, path))
