"""The sentences of the report that depend on what the charter says."""

from __future__ import annotations

from fedfm_audit.charter_view import CharterView

SUITES = {
    "clear": "updates go to the coordinator as they are; it sees every institution's update",
    "masked": "updates are masked in pairs; the coordinator sees sums only, of at least the stated "
    "number of updates, unless more collude than the limits allow",
    "sealed": "updates are encrypted under a collective key; only several of its holders together "
    "open a sum, or anything else under that key",
    "layered": "updates are masked in pairs and encrypted under a collective key: both would have "
    "to fall before a single update is seen",
}

CANNOT_SHOW = (
    "that the training rows were real, lawful, or of the stated institutions, or how many there "
    "were",
    "that anybody trained as the charter says, or that updates were honest: poisoned data or "
    "updates leave no trace here",
    "that keys were used by the people they belong to, or that nothing happened outside the log",
    "that no majority of institutions conspired: a quorum that lies together can vouch for a "
    "false history",
    "when a round took place: only witnesses' cosignatures carry times, by their own clocks",
    "how good the model is: accuracy is measured by whoever holds test data and is no part of the "
    "log, so there is no plot of it here",
)


def cannot_show(charter: CharterView | None, *, repeated: bool = False) -> tuple[str, ...]:
    """What no bundle, or none of this charter, can show; ``repeated`` if every sum was, from a
    replay archive."""
    found = list(CANNOT_SHOW)
    if not repeated:
        found.insert(
            2,
            "that each sum is the sum of the uploads: the coordinator adds up, and the messages "
            "that carry updates are no part of a bundle (step 9 needs a replay archive)",
        )
    if charter is not None and charter.encrypted:
        found.append("that shares of a collective key were right, or that nobody kept a copy")
    if charter is not None and charter.robust:
        found.append(
            "that the scores which a verdict rests on are those of the updates, or that the rule "
            "was applied to them: sketches and scores are encrypted and no evidence; a validator "
            "and a coordinator that conspire can let in or keep out whom they like"
        )
    if charter is not None and charter.privacy["mode"] != "none":
        found.append(
            "that noise was really added: a ledger's signature proves who claims it, not that it "
            "is so"
        )
    return tuple(found)
