"""A charter for a person to read before signing, and the same as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedfm_audit.privacy.in_words import privacy_table
from fedfm_protocols.charter import Charter, Client, Coordinator, Validator
from fedfm_protocols.federation import Federation
from secure_fedfm.cli.charter_files import CharterFile
from secure_fedfm.cli.output import table
from secure_fedfm.enrolling import fingerprint
from secure_fedfm.services.privacy import privacy_terms


def charter_text(found: CharterFile) -> str:
    """Summary in sections; every value that a founder's signature commits to appears."""
    charter = found.charter
    thresholds = charter.thresholds
    quantiser = charter.quantiser
    labels = charter.task.labels
    sections = [
        f"charter of federation {charter.federation}\n"
        + table(
            {
                "sha256": charter.hash.hex(),
                "signed by": ", ".join(found.signers) or "nobody",
                "quorum": _quorum(found),
            }
        ),
        "parties (compare the fingerprints with the institutions themselves)\n"
        + table(
            {
                party.name: f"{role}, identity {fingerprint(party.identity)}"
                for role, party in _parties(charter)
            }
        ),
        "log\n" + table({"origin": charter.log.origin, "key": charter.log.key}),
        "protection\n"
        + table(
            {
                "suite": charter.suite,
                "privacy": _pairs(charter.privacy.model_dump(mode="json")),
                "colluding": f"up to {thresholds.colluding} of {thresholds.clients} clients",
                "dropouts": f"up to {thresholds.dropouts} in a round",
                "shares to unmask": thresholds.share_threshold,
                "key holders to open a sum": thresholds.key_threshold,
                "vote quorum": thresholds.vote_quorum,
                "fewest updates": thresholds.min_accepted,
                "quantiser": f"{quantiser.values} values of {quantiser.lane_bits} bits, "
                f"clip {quantiser.clip:g}, scale {quantiser.scale}",
                "ownership marks": _marks(charter),
            }
        ),
        "privacy\n" + table(privacy_table(privacy_terms(Federation.of(charter)), charter.rounds)),
        *_robustness(charter),
        "learning\n"
        + table(
            {
                "model": f"{charter.model.name} (sha256 {charter.model.sha256})",
                "task": f"{charter.task.kind}, {len(labels)} labels"
                + (f": {', '.join(labels[:8])}" if labels else "")
                + (", ..." if len(labels) > 8 else ""),
                "rounds": charter.rounds,
                "adapter": _pairs(charter.adapter),
                "training": _pairs(charter.training),
                "server optimiser": _pairs(charter.server_optimiser),
                "initial adapter": charter.initial_adapter,
            }
        ),
    ]
    text = "\n\n".join(sections)
    # Labels and names come from whoever drafted the charter: nothing may drive the terminal.
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def charter_document(found: CharterFile, path: Path) -> dict[str, object]:
    """Hash, signatures, thresholds and the whole charter."""
    charter = found.charter
    thresholds = charter.thresholds
    return {
        "file": str(path),
        "sha256": charter.hash.hex(),
        "signed_by": list(found.signers),
        "missing": list(found.missing),
        "quorum": charter.founders.quorum,
        "in_force": found.in_force,
        "thresholds": {
            "clients": thresholds.clients,
            "colluding": thresholds.colluding,
            "dropouts": thresholds.dropouts,
            "share_threshold": thresholds.share_threshold,
            "key_threshold": thresholds.key_threshold,
            "vote_quorum": thresholds.vote_quorum,
            "min_accepted": thresholds.min_accepted,
        },
        "charter": charter.model_dump(mode="json"),
    }


def _quorum(found: CharterFile) -> str:
    founders = found.charter.founders
    needed = f"{founders.quorum} of {len(founders.names)} founders"
    if found.in_force:
        return f"{needed}: in force"
    lacking = founders.quorum - len(found.signers)
    return f"{needed}: {lacking} more of {', '.join(found.missing)} must sign"


def _parties(charter: Charter) -> list[tuple[str, Client | Coordinator | Validator]]:
    found: list[tuple[str, Client | Coordinator | Validator]] = [
        ("coordinator", charter.coordinator)
    ]
    if charter.validator is not None:
        found.append(("validator", charter.validator))
    return [*found, *(("client", client) for client in charter.roster)]


def _robustness(charter: Charter) -> list[str]:
    """Who judges updates, and by which rule; nothing in a federation where nobody does."""
    section = charter.robustness
    if section is None or charter.validator is None:
        return []
    return [
        "robustness\n"
        + table(
            {
                "validator": charter.validator.name,
                "rule": section.rule,
                "parameters": _pairs(section.parameters) or "the rule's defaults",
                "compared with": section.root or "each other",
                "largest norm measured": f"{section.norm_bound:g}",
                "sketch key": f"a new one after {section.key_rounds} rounds",
                "groups": ", ".join(group.name for group in section.groups) or "one: all values",
            }
        )
    ]


def _marks(charter: Charter) -> str:
    section = charter.watermark
    if section is None:
        return "none"
    own = ", ".join(owner.client for owner in section.owners if owner.mark == "own")
    kept = "".join(
        f"the consortium's, kept by {owner.client}; "
        for owner in section.owners
        if owner.mark == "consortium"
    )
    return f"{kept}own marks of {own or 'nobody'}; each changes at most {section.largest_change:g}"


def _pairs(section: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in section.items())
