"""The charter that a scenario describes."""

from __future__ import annotations

from typing import Any

from fedfm_protocols.federation import Federation
from fedfm_protocols.scenario.federations import Keys, make_federation
from fedfm_protocols.scenario.form import Scenario


def charter_of(scenario: Scenario, keys: Keys, **changes: Any) -> Federation:
    """The federation that a scenario describes; ``changes`` replace fields of the charter."""
    form = scenario.federation
    fields: dict[str, Any] = {
        "federation": form.name,
        "suite": form.suite,
        "rounds": form.rounds,
        "limits": {"colluding": form.colluding, "dropouts": form.dropouts},
        "quantiser": {
            "values": form.values,
            "clip": form.clip,
            "scale": form.scale,
            "lane_bits": form.lane_bits,
        },
    }
    return make_federation(keys, **{**fields, **changes})
