"""`coordinator`, `client` and `validator`: the services, in the foreground of this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secure_fedfm.cli.options import (
    LabelColumnOption,
    LogFormatOption,
    LogLevelOption,
    SetOption,
    SiteOption,
    TextColumnOption,
)
from secure_fedfm.cli.outcome import require
from secure_fedfm.cli.settings import given, load_config, require_role, with_settings
from secure_fedfm.config import SiteConfig
from secure_fedfm.logs import setup_logs
from secure_fedfm.storage.site import Site

AddressOption = Annotated[
    str | None,
    typer.Option("--coordinator", metavar="tcp://HOST:PORT", help="Where the coordinator listens."),
]
ConnectTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--connect-timeout",
        metavar="SECONDS",
        help="Give up if the coordinator cannot be reached for so long.",
    ),
]


def coordinator(
    site: SiteOption,
    bind: Annotated[
        str | None,
        typer.Option("--bind", metavar="tcp://HOST:PORT", help="Address to listen on."),
    ] = None,
    allow_remote: Annotated[
        bool | None,
        typer.Option(
            "--allow-remote/--loopback-only",
            help="Whether an address that other machines can reach may be bound.",
            show_default=False,
        ),
    ] = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    settings: SetOption = None,
) -> None:
    """Run the coordinator of a federation until its last round is over.

    Needs the keys and enrolment of DIR, the signed DIR/charter.json, and every party's
    enrolment in DIR/enrolments/NAME.json. Started again after a crash it goes on with the round
    at hand or aborts it. Flags override the environment, which overrides DIR/site.toml.
    """
    flags = given(bind=bind, allow_remote=allow_remote, log_format=log_format, log_level=log_level)
    folder, config = _start(site, "coordinator", flags, settings)
    require("zmq")
    from secure_fedfm.services.coordinator_process import run_coordinator  # noqa: PLC0415

    raise typer.Exit(run_coordinator(folder, config))


def client(
    site: SiteOption,
    address: AddressOption = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="File, folder or hub data set to train on."),
    ] = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", file_okay=False, help="Folder of the base model."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads for training.")
    ] = None,
    connect_timeout: ConnectTimeoutOption = None,
    charter_hash: Annotated[
        str | None,
        typer.Option(
            "--charter-hash",
            metavar="HEX",
            help="Refuse any other charter than this one (policy.charter_hash).",
        ),
    ] = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    settings: SetOption = None,
) -> None:
    """Run one institution's client until the federation is over.

    Needs the keys of DIR and the signed DIR/charter.json. Training data stay on this machine;
    what leaves it is a masked update. A charter below the [policy] of DIR/site.toml is refused.
    Flags override the environment, which overrides DIR/site.toml.
    """
    flags = given(
        coordinator=address,
        data=data,
        text_column=text_column,
        label_column=label_column,
        model=model,
        threads=threads,
        connect_timeout=connect_timeout,
        log_format=log_format,
        log_level=log_level,
    )
    if charter_hash is not None:
        flags["policy"] = {"charter_hash": charter_hash.lower()}
    folder, config = _start(site, "client", flags, settings)
    require("zmq", "torch", "transformers", "peft")
    from secure_fedfm.services.client_process import run_client  # noqa: PLC0415

    raise typer.Exit(run_client(folder, config))


def validator(
    site: SiteOption,
    address: AddressOption = None,
    connect_timeout: ConnectTimeoutOption = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    settings: SetOption = None,
) -> None:
    """Run the validator of a robust federation until the federation is over.

    Needs the keys of DIR and the signed DIR/charter.json; no data and no model. It opens inner
    products of encrypted sketches, applies the charter's rule and signs whom it excludes. Killed
    and started again it answers the same. Flags override the environment, which overrides
    DIR/site.toml.
    """
    flags = given(
        coordinator=address,
        connect_timeout=connect_timeout,
        log_format=log_format,
        log_level=log_level,
    )
    folder, config = _start(site, "validator", flags, settings)
    require("zmq", "tenseal", "numba")
    from secure_fedfm.services.validator_process import run_validator  # noqa: PLC0415

    raise typer.Exit(run_validator(folder, config))


def _start(
    root: Path, role: str, flags: dict[str, Any], settings: list[str] | None
) -> tuple[Site, SiteConfig]:
    site = Site(root)
    config = load_config(site, with_settings(flags, settings))
    require_role(config, role, site)
    setup_logs(config.log_format, config.log_level, site=config.name)
    return site, config
