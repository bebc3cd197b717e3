"""The command line `secure-fedfm`: its verbs, and the one place where a command ends.

Nothing heavy is imported here or at the top of a verb's module: an auditor's install has no torch
and no transport, and `-h` should answer at once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from secure_fedfm.cli.outcome import EPILOG, Exit, report
from secure_fedfm.cli.output import say

PROGRAM = "secure-fedfm"

VERBS = {
    "demo": "demo:demo",
    "keygen": "keys:keygen",
    "enroll": "keys:enroll",
    "charter": "charter:app",
    "coordinator": "services:coordinator",
    "client": "services:client",
    "validator": "services:validator",
    "status": "status:status",
    "rounds": "rounds:app",
    "evaluate": "evaluate:evaluate",
    "audit": "audit:app",
    "ledger": "ledger:app",
    "watermark": "watermark:app",
    "log": "log:app",
    "protocol": "protocol:app",
    "config": "config_check:app",
    "doctor": "doctor:doctor",
}
"""Each verb, in the order of the help, with its module here and what in it is the verb."""


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


def build(verb: str | None = None) -> typer.Typer:
    """The program with this verb alone, or with all of them where it is none: an auditor should not
    wait until the rest is loaded."""
    made = typer.Typer(
        name=PROGRAM,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback(epilog=EPILOG)(root)
    for name in [verb] if verb in VERBS else VERBS:
        place, _, what = VERBS[name].partition(":")
        found = getattr(importlib.import_module(f"secure_fedfm.cli.{place}"), what)
        if isinstance(found, typer.Typer):
            made.add_typer(found, name=name, epilog=EPILOG)
        else:
            made.command(name, epilog=EPILOG)(found)
    return made


def __getattr__(name: str) -> typer.Typer:
    """``app``, the whole program, for whoever asks for it."""
    if name == "app":
        return build()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and raises nothing."""
    options = GlobalOptions()
    given = sys.argv[1:] if arguments is None else arguments
    command = typer.main.get_command(build(next(iter(given), None)))
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
