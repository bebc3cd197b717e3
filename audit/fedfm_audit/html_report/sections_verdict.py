"""The report's sections about the verification: verdict, steps, limits, and other tools."""

from __future__ import annotations

from fedfm_audit.html_report.markup import (
    Child,
    Markup,
    bullets,
    code,
    element,
    join,
    paragraph,
    table,
)
from fedfm_audit.html_report.overview import Overview
from fedfm_audit.html_report.wording import cannot_show
from fedfm_audit.report import REQUIRED_STEPS, Report, Status, StepResult
from fedfm_crypto.note import VerifierKey, format_vkey

_CLASSES = {Status.VERIFIED: "verified", Status.FAILED: "failed", Status.NOT_CHECKABLE: "open"}


def verdict(report: Report, overview: Overview | None, trouble: str = "") -> Markup:
    """Verdict first: the word, what it rests on, and what it leaves open."""
    word = "VERIFIED" if report.ok else "FAILED"
    name = report.summary.federation if report.summary is not None else report.bundle
    parts: list[Child] = [element("h1", f"{word}: federation {name}" if overview else word)]
    failed = [step for step in report.steps if step.status is Status.FAILED]
    if failed:
        first = failed[0]
        parts.append(
            paragraph(
                f"Step {first.number} ({first.title}) failed",
                f" first, and {len(failed) - 1} more after it" if len(failed) > 1 else "",
                ".",
            )
        )
        parts.append(bullets(_failure(first)))
    elif not report.ok:
        missing = [
            str(step.number)
            for step in report.steps
            if step.number in REQUIRED_STEPS and step.status is not Status.VERIFIED
        ]
        parts.append(paragraph(f"Required steps were not verified: {', '.join(missing)}."))
    else:
        held = [str(step.number) for step in report.steps if step.status is Status.VERIFIED]
        parts.append(
            paragraph(
                f"Steps {', '.join(held)} of 0 to {report.steps[-1].number} hold; no step failed. "
                "The charter, every statement and every message carry the enrolled keys' "
                "signatures, every round went by the rules, and the adapters follow from each "
                "other."
            )
        )
    if trouble:
        parts.append(paragraph(trouble))
    if report.warnings:
        leaves = "What this verdict leaves open:" if report.ok else "Besides:"
        parts.append(paragraph(leaves))
        parts.append(bullets(report.warnings))
    parts.append(paragraph(f"Bundle: {report.bundle}", class_="soft"))
    return element(
        "section", *parts, class_=f"verdict {'verified' if report.ok else 'failed'}", id="verdict"
    )


def steps(report: Report) -> Markup:
    """Every step of the verification with its result."""
    rows = [
        (
            str(step.number),
            step.title,
            element("span", step.status.value, class_=_CLASSES[step.status]),
            join((step.detail, bullets(_failure(step)) if step.failures else "")),
        )
        for step in report.steps
    ]
    caption = "Steps of the verification, in order; a later step judges by what earlier ones gave."
    return element(
        "section",
        element("h2", "What was checked"),
        table(caption, ("Step", "Checks", "Result", "Found"), rows),
        id="steps",
    )


def limits(report: Report, overview: Overview | None) -> Markup:
    """What was not checked, and what no evidence of this kind can show."""
    open_steps = [step for step in report.steps if step.status is Status.NOT_CHECKABLE]
    return element(
        "section",
        element("h2", "What was not checked, and what evidence cannot show"),
        paragraph("Not checked in this bundle:"),
        bullets(f"step {step.number}, {step.title}: {step.detail}" for step in open_steps)
        if open_steps
        else paragraph("nothing; every step was checkable"),
        paragraph("No bundle of this kind can show"),
        bullets(
            cannot_show(
                None if overview is None else overview.charter,
                repeated=report.step(9).status is Status.VERIFIED,
            )
        ),
        id="limits",
    )


def other_tools(overview: Overview | None) -> Markup:
    """How to check with programs that this project did not write."""
    parts: list[Child] = [
        element("h2", "Check it with other tools"),
        paragraph(
            "Nothing here needs to be believed because this program says so. The formats are "
            "public: statements are in-toto in DSSE envelopes with Ed25519, the log is RFC 6962 in "
            "C2SP tlog-tiles, its head a C2SP signed note. audit/README.md in the source of "
            "Secure FedFM describes every byte, enough to write another verifier; "
            "docs/for-auditors.md there has each of these checks as commands to type."
        ),
        bullets(
            (
                join(
                    (
                        "Head and proofs: Go's golang.org/x/mod/sumdb/note and tlog open the file ",
                        code("checkpoint"),
                        " with the keys below and check inclusion and consistency over ",
                        code("tile/"),
                        ".",
                    )
                ),
                join(
                    (
                        "One statement for somebody without the bundle: ",
                        code("secure-fedfm audit inclusion BUNDLE round:1 --tlog-proof FILE"),
                        " writes a C2SP tlog-proof.",
                    )
                ),
                join(
                    (
                        "Root: pymerkle's ",
                        code("InmemoryTree(algorithm='sha256')"),
                        ", given the leaves in order, has the root stated above.",
                    )
                ),
                join(
                    (
                        "Signatures: ",
                        code(
                            "openssl pkeyutl -verify -pubin -inkey KEY.pem -rawin -in PAE "
                            "-sigfile SIG"
                        ),
                        " over the DSSE pre-authentication encoding of a leaf.",
                    )
                ),
                "Two copies, or an earlier and a later one: secure-fedfm audit diff A B.",
            )
        ),
    ]
    if overview is not None:
        keys = (overview.charter.log_key, *overview.charter.witnesses)
        parts.append(
            table(
                "Verifier keys as the charter has them (C2SP vkey); compare them with what the "
                "institutions tell you.",
                ("Key", "vkey"),
                [(key.name, code(_vkey(key))) for key in keys],
            )
        )
    return element("section", *parts, id="tools")


def _failure(step: StepResult) -> list[Markup]:
    return [
        join((element("strong", failure.place), ": ", failure.reason)) for failure in step.failures
    ]


def _vkey(key: VerifierKey) -> str:
    return format_vkey(key.name, key.public, key.algorithm)
