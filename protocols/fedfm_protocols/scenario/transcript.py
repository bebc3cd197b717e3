"""The transcript of a run: canonical JSON, the same bytes for the same scenario and seed.

It holds the scenario, every event and the verdict.  Of messages it holds signed headers and
hashes, of shares only whose they are, of update vectors nothing but a hash.  The seed of a
scenario is in it: it is there to repeat the run, and no key that matters comes from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.errors import CanonicalJSONError
from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.scenario.acts import ActForm
from fedfm_protocols.scenario.form import Scenario
from fedfm_protocols.scenario.observations import Event
from fedfm_protocols.scenario.verdict import Verdict

FORMAT = "secure-fedfm/scenario-transcript/1"


def transcript_of(scenario: Scenario, events: Sequence[Event], verdict: Verdict) -> bytes:
    """Canonical JSON bytes of a run."""
    return canonical_encode(
        {
            "format": FORMAT,
            "scenario": scenario_view(scenario),
            "events": list(events),
            "verdict": verdict_view(verdict),
        }
    )


def verdict_view(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON."""
    return {
        "ok": verdict.ok,
        "lines": [
            {
                "round": line.round,
                "what": line.what,
                "expected": line.expected,
                "found": line.found,
                "ok": line.ok,
            }
            for line in verdict.lines
        ],
    }


def scenario_view(scenario: Scenario) -> dict[str, Any]:
    """A scenario as JSON, vectors by hash."""
    fields = scenario.model_dump(mode="json", exclude={"rounds", "updates"}, exclude_none=True)
    fields["updates"] = {
        "kind": scenario.updates.kind,
        **({"kinds": scenario.updates.kinds} if scenario.updates.kinds else {}),
        "vectors_sha256": {
            name: hashlib.sha256(np.array(values, "<f8").tobytes()).hexdigest()
            for name, values in scenario.updates.vectors.items()
        },
    }
    fields["rounds"] = [
        {
            **one.model_dump(mode="json", exclude={"acts", "in_session"}, exclude_none=True),
            "acts": [_act_view(act) for act in one.acts],
        }
        for one in scenario.rounds
    ]
    return fields


def _act_view(act: Any) -> dict[str, Any]:
    if isinstance(act, ActForm):
        return act.model_dump(mode="json", exclude_none=True, by_alias=True)
    return {"act": "python", "function": getattr(act, "__name__", type(act).__name__)}


def read_transcript(data: bytes) -> dict[str, Any]:
    """The content of a transcript.

    Raises
    ------
    ScenarioError
        if it is none.
    """
    try:
        content = canonical_decode(data)
    except CanonicalJSONError as error:
        raise ScenarioError(f"not a transcript of a scenario: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ScenarioError(f"not a transcript of a scenario: expected format {FORMAT!r}")
    return content
