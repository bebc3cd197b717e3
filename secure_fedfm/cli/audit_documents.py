"""`audit report`, `audit diff` and `audit inclusion`: documents made from evidence bundles, on the
base install."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.bundle import read_bundle
from fedfm_audit.compare import compare_bundles
from fedfm_audit.errors import ProofError
from fedfm_audit.html_report.page import report_bundle
from fedfm_audit.inclusion import ProvenLeaf, find_leaf, prove_inclusion, verify_document
from fedfm_audit.inclusion_document import MAX_DOCUMENT_BYTES, InclusionDocument
from fedfm_audit.report import printable
from fedfm_crypto.errors import FedFMError
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
from secure_fedfm.cli.outcome import Exit, explain
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.replay_options import ReplayOption, ReplayRoundsOption, rounds_asked


def report(
    bundle: BundleArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            dir_okay=False,
            help="Where to write the report; by default beside the bundle, BUNDLE-report.html.",
        ),
    ] = None,
    policy: PolicyOption = None,
    charter_hash: CharterHashOption = None,
    adapter: AdapterOption = None,
    full: FullOption = False,
    replay: ReplayOption = None,
    replay_rounds: ReplayRoundsOption = None,
    tsa_root: TsaRootOption = None,
    opening: OpeningOption = None,
) -> None:
    """Verify a bundle and write an HTML report for people: one file, no scripts, no network.

    The verdict stands first, also when it is FAILED: the report is written either way. Ends with 1
    if a step failed, like `audit verify`.
    """
    place = bundle.resolve()
    target = (out or place.with_name(f"{place.stem}-report.html")).resolve()
    if target.is_relative_to(place):
        raise typer.BadParameter("a bundle holds no report; choose a place outside of it")
    found, page = report_bundle(
        bundle,
        policy=_bytes(policy),
        charter_sha256=_lower(charter_hash),
        adapter=adapter,
        full=full,
        replay=replay,
        replay_rounds=rounds_asked(replay_rounds),
        tsa_roots=_bytes(tsa_root),
        openings=read_openings(opening),
    )
    _write(target, page)
    say(found.to_text().rstrip("\n"))
    say(f"report: {target}")
    raise typer.Exit(Exit.OK if found.ok else Exit.CHECK_FAILED)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="One bundle.", exists=True)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other one.", exists=True)],
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold two bundles of a federation against each other: one history, or two?

    An earlier and a later bundle, or the copies of two parties. Ends with 0 if they are the same or
    one extends the other, with 1 if the histories fork (the first leaf that differs is named), the
    charters or transcripts differ, or a head or tree is not valid. Cosignatures that only one head
    has are noted and no difference. Rounds are not replayed: `audit verify` does that.
    """
    try:
        files = (read_bundle(a), read_bundle(b))
    except FedFMError as error:
        raise _failed(error) from error
    found = compare_bundles(*files, names=(str(a), str(b)), policy=_bytes(policy))
    say(found.to_text().rstrip("\n"))
    if as_json:
        emit(found.to_json())
    raise typer.Exit(Exit.OK if found.ok else Exit.CHECK_FAILED)


def inclusion(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Bundle folder or zip.", exists=True)
    ] = None,
    leaf: Annotated[
        str | None,
        typer.Argument(metavar="LEAF", help="Number, SHA-256 of the leaf, or round:N."),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, help="Also prove this step of the round (from 0)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", dir_okay=False, help="Write the document here, not to stdout."
        ),
    ] = None,
    tlog_proof: Annotated[
        Path | None,
        typer.Option(
            "--tlog-proof",
            metavar="FILE",
            dir_okay=False,
            help="Also write the proof in C2SP tlog-proof form, and the leaf as FILE.leaf.",
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            "--verify",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Verify such a document; no bundle is needed.",
        ),
    ] = None,
    policy: PolicyOption = None,
    charter_hash: CharterHashOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --verify: print the result as JSON on stdout.")
    ] = False,
) -> None:
    """Prove one leaf of the log to somebody who has no bundle, or verify such a proof.

    `audit inclusion BUNDLE LEAF` prints one JSON document: charter, leaf, inclusion proof and
    checkpoint. It is verified first; if it does not hold, nothing is written. `audit inclusion
    --verify FILE` verifies such a document alone. Ends with 1 if a proof does not hold.
    """
    making = bundle is not None and leaf is not None
    if (verify is None) != making or (verify is not None and bundle is not None):
        raise typer.BadParameter("give BUNDLE and LEAF, or --verify FILE alone")
    if verify is not None and (step is not None or out is not None or tlog_proof is not None):
        raise typer.BadParameter("--step, --out and --tlog-proof make a document; leave them out")
    if as_json and verify is None:
        raise typer.BadParameter("--json goes with --verify; the document itself is JSON")
    try:
        if bundle is not None and leaf is not None:
            files = read_bundle(bundle)
            document = prove_inclusion(files, find_leaf(files, leaf), step)
        else:
            document = InclusionDocument.decode(_read_document(verify))
        found = verify_document(
            document, policy=_bytes(policy), charter_sha256=_lower(charter_hash)
        )
    except FedFMError as error:
        raise _failed(error) from error
    say(_described(found))
    if verify is not None:
        if as_json:
            emit(found.to_json())
        return
    if tlog_proof is not None:
        _write(tlog_proof, document.tlog_proof())
        _write(tlog_proof.with_name(f"{tlog_proof.name}.leaf"), document.leaf)
    if out is not None:
        _write(out, document.encode())
    else:
        print(document.encode().decode())


def _described(found: ProvenLeaf) -> str:
    statement, head = found.statement.to_json(), found.head.checkpoint
    lines = [
        f"VERIFIED  leaf {found.index} of {head.size}, federation {found.federation}",
        f"charter {found.charter}, root {head.root.hex()}, cosigned by {len(found.head.cosigned)}",
        f"{statement['predicateType']} about {statement['subject'][0]['name']}, signed by "
        f"{found.signer}",
    ]
    if found.step is not None:
        lines.append(f"step {found.step} of the round is the one that the statement covers")
    if found.trust.policy == "bundle":
        lines.append("note: log and witness keys came from the evidence itself; give --policy")
    if found.trust.charter == "bundle":
        lines.append("note: nobody independent vouches for the charter; give --charter-hash")
    return "\n".join(printable(line) for line in lines)


def _failed(error: FedFMError) -> typer.Exit:
    say(f"FAILED  {explain(error)}")
    return typer.Exit(Exit.CHECK_FAILED)


def _bytes(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _read_document(path: Path | None) -> bytes:
    if path is None:
        return b""
    with path.open("rb") as stream:
        data = stream.read(MAX_DOCUMENT_BYTES + 2)
    if len(data) > MAX_DOCUMENT_BYTES + 1:
        raise ProofError(f"{path} has more than {MAX_DOCUMENT_BYTES} bytes")
    return data.removesuffix(b"\n")  # what printing adds


def _write(path: Path, data: bytes) -> None:
    """The whole file or none: a report that was cut off could lose its last sections unnoticed."""
    path = path.resolve()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".audit-", delete=False) as stream:
        try:
            stream.write(data)
            stream.flush()
            os.chmod(stream.name, 0o644)
            os.replace(stream.name, path)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise
