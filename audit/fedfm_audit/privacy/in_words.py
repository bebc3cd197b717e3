"""What a charter's privacy mode means, for a person: who is protected from whom, how much, and
what is left of it if more institutions collude than the noise is made for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fedfm_audit.errors import PrivacyEventError, PrivacySettingError
from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.events import Event
from fedfm_audit.privacy.shared_noise import Collusion, if_more_collude, with_one_share
from fedfm_audit.privacy.terms import SHARING, PrivacyTerms

NOTHING = "nothing: no differential privacy; the adapter may reveal single training rows"


def privacy_table(terms: PrivacyTerms | None, rounds: int) -> dict[str, object]:
    """Rows of `charter show`, in plain words; computed, not copied (a few seconds)."""
    if terms is None:
        return {"protects": NOTHING}
    budget = f"epsilon {terms.epsilon:g} at delta {terms.delta:g}"
    match terms.mode:
        case "local":
            found: dict[str, object] = {
                "protects": "every single training row (one added or removed)",
                "from": "everyone else, all other institutions together included",
                "at most": f"{budget}, each institution by its own noise, whatever others do",
            }
        case "client":
            found = {
                "protects": "the whole update of an institution",
                "from": _observers(terms),
                "at most": f"{budget}, by noise that the institutions share",
            }
        case _:
            found = {
                "protects": "every single training row (one added or removed), in whichever "
                "institution it lies",
                "from": _observers(terms),
                "at most": f"{budget}, by noise that the institutions share: "
                f"{terms.honest_shares} shares are all of it",
                "not from": "the institution that holds the row",
            }
    return found | _costs(terms, rounds)


def collusion_text(rows: Sequence[Collusion]) -> str:
    """Epsilon against each number of colluding institutions, in one line."""
    return ", ".join(f"{row.colluding}: {epsilon_text(row.epsilon)}" for row in rows)


def epsilon_text(epsilon: float) -> str:
    """An epsilon for a person."""
    return "no protection" if math.isinf(epsilon) else f"epsilon {epsilon:.4g}"


def if_more_collude_lines(terms: PrivacyTerms, events: Iterable[Event]) -> list[str]:
    """For `ledger`: what has been charged, against more institutions than it was charged for."""
    listed = tuple(events)
    if terms.mode not in SHARING or not listed:
        return []
    rows = if_more_collude(listed, terms.adversary.colluding, terms.delta)
    return [f"  with so many institutions colluding: {collusion_text(rows)}"]


def _observers(terms: PrivacyTerms) -> str:
    told = terms.adversary.colluding
    helped = (
        f"with up to {told} institution{'s' * (told != 1)} on their side"
        if told
        else "with NO institution on their side: one that takes part knows its own noise"
    )
    return f"whoever sees opened sums or the adapter, the coordinator included, {helped}"


def _costs(terms: PrivacyTerms, rounds: int) -> dict[str, object]:
    try:
        event = terms.planned_event()
        planned = [event] * rounds
        found: dict[str, object] = {
            "planned": f"{rounds} rounds of {terms.steps} steps cost "
            f"{epsilon_text(spent(planned, terms.delta).epsilon)}"
        }
        if terms.shared_noise is not None:
            rows = if_more_collude(planned, terms.adversary.colluding, terms.delta)
            alone = with_one_share(planned, terms.delta)
            found["if more collude"] = collusion_text(rows[1:]) or "no protection"
            found["if masks fall"] = (
                f"{epsilon_text(alone)}: more colluding institutions than the limits allow may "
                "uncover one institution's sum, which carries one share of the noise"
            )
    except (PrivacyEventError, PrivacySettingError) as error:
        return {"planned": f"cannot be computed: {error}"}
    return found
