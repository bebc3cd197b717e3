"""`audit verify`: the offline verifier, on the base install (no torch, no transport); and the
place where the other verbs are hung in: `audit privacy` trains, the rest need no more than this."""

from __future__ import annotations

import typer

from fedfm_audit.verify import verify_bundle
from secure_fedfm.cli.audit_documents import diff, inclusion, report
from secure_fedfm.cli.audit_privacy import audit_privacy
from secure_fedfm.cli.audit_split_view import split_view
from secure_fedfm.cli.bundle_options import (
    AdapterOption,
    BundleArgument,
    CharterHashOption,
    FullOption,
    OpeningOption,
    PolicyOption,
    TsaRootOption,
    read_openings,
)
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import EPILOG, Exit
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.replay_options import ReplayOption, ReplayRoundsOption, rounds_asked

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Verify the evidence of a federation, offline; try to break private training, here."""


app.command("report", epilog=EPILOG)(report)
app.command("diff", epilog=EPILOG)(diff)
app.command("inclusion", epilog=EPILOG)(inclusion)
app.command("split-view", epilog=EPILOG)(split_view)
app.command("privacy", epilog=EPILOG)(audit_privacy)


@app.command("verify", epilog=EPILOG)
def verify(
    bundle: BundleArgument,
    policy: PolicyOption = None,
    charter_hash: CharterHashOption = None,
    adapter: AdapterOption = None,
    full: FullOption = False,
    replay: ReplayOption = None,
    replay_rounds: ReplayRoundsOption = None,
    tsa_root: TsaRootOption = None,
    opening: OpeningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify an evidence bundle: signatures, log, every round replayed, the adapter's hash chain,
    the privacy ledgers recomputed, commitments to ownership marks, and with --replay the
    coordinator's arithmetic.

    Nothing is fetched and nothing in the bundle is executed. Without --policy or --charter-hash
    the keys come from the bundle itself, and the report says so. Ends with 1 if a step failed.
    """
    found = verify_bundle(
        bundle,
        policy=None if policy is None else policy.read_bytes(),
        charter_sha256=None if charter_hash is None else charter_hash.lower(),
        adapter=adapter,
        full=full,
        replay=replay,
        replay_rounds=rounds_asked(replay_rounds),
        tsa_roots=None if tsa_root is None else tsa_root.read_bytes(),
        openings=read_openings(opening),
    )
    say(found.to_text().rstrip("\n"))
    if as_json:
        emit(found.to_json())
    raise typer.Exit(Exit.OK if found.ok else Exit.CHECK_FAILED)
