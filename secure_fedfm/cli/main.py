"""The command line `secure-fedfm`: its verbs, and the one place where a command ends.

Nothing heavy is imported here or at the top of a verb's module: an auditor's install has no torch
and no transport, and `-h` should answer at once.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from secure_fedfm.cli import (
    audit,
    charter,
    config_check,
    demo,
    doctor,
    evaluate,
    keys,
    ledger,
    protocol,
    services,
    status,
)
from secure_fedfm.cli.outcome import EPILOG, Exit, report
from secure_fedfm.cli.output import say

PROGRAM = "secure-fedfm"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass
class GlobalOptions:
    """What the options before the verb said; filled in while the command line is parsed."""

    debug: bool = False


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = importlib.metadata.version(PROGRAM)
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"{PROGRAM} {version}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def root(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error, too.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Secure, privacy-preserving and auditable federated fine-tuning.

    Try `secure-fedfm demo` for a whole federation on this machine. Institutions start with
    `keygen`, `enroll` and `charter`; auditors need `audit verify` only. Messages go to stderr,
    results of --json to stdout.
    """
    if isinstance(context.obj, GlobalOptions):
        context.obj.debug = debug


app.command("demo", epilog=EPILOG)(demo.demo)
app.command("keygen", epilog=EPILOG)(keys.keygen)
app.command("enroll", epilog=EPILOG)(keys.enroll)
app.add_typer(charter.app, name="charter", epilog=EPILOG)
app.command("coordinator", epilog=EPILOG)(services.coordinator)
app.command("client", epilog=EPILOG)(services.client)
app.command("status", epilog=EPILOG)(status.status)
app.command("evaluate", epilog=EPILOG)(evaluate.evaluate)
app.add_typer(audit.app, name="audit", epilog=EPILOG)
app.add_typer(ledger.app, name="ledger", epilog=EPILOG)
app.add_typer(protocol.app, name="protocol", epilog=EPILOG)
app.add_typer(config_check.app, name="config", epilog=EPILOG)
app.command("doctor", epilog=EPILOG)(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and raises nothing."""
    options = GlobalOptions()
    command = typer.main.get_command(app)
    try:
        ended = command.main(
            args=None if arguments is None else list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
            obj=options,
        )
    except (typer.Abort, KeyboardInterrupt):
        ended = Exit.INTERRUPTED
    except Exception as error:
        if _is_usage_error(error):
            return int(Exit.USAGE)
        return int(report(error, debug=options.debug))
    if ended == Exit.INTERRUPTED:  # some versions of Typer return the code, some raise Abort
        say("interrupted")
    return int(ended) if isinstance(ended, int) else int(Exit.OK)


def _is_usage_error(error: Exception) -> bool:
    """Whether the parser refused the command line; then its own message is printed.

    The parser is click, which newer versions of Typer bring along under another name: its errors
    are told by what they can do, not by their class.
    """
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "format_message"):
        show(file=sys.stderr)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
