"""Charters of robust federations: what is accepted, what is refused and why, by the protocol and by
the auditor's own reader; a charter without these sections keeps its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from fedfm_audit.charter_view import open_charter as open_as_auditor
from fedfm_audit.errors import CharterViewError
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_sign
from fedfm_protocols.charter import CHARTER_PAYLOAD_TYPE, make_charter, read_charter_payload
from fedfm_protocols.errors import CharterError
from fedfm_protocols.federation import Federation
from fedfm_protocols.scenario.federations import (
    LEAST_ROBUST_VALUES,
    charter_fields,
    make_keys,
    robust_fields,
)

KEYS = make_keys(5)
Edit = Callable[[dict[str, Any]], Any]
HALF = LEAST_ROBUST_VALUES // 2
TWO_GROUPS = [
    {"name": "head", "spans": [[0, HALF]]},
    {"name": "b", "spans": [[HALF, 2 * HALF]]},
]


def _fields(**changes: Any) -> dict[str, Any]:
    fields = charter_fields(KEYS, **robust_fields(KEYS, **changes))
    copied: dict[str, Any] = json.loads(json.dumps(fields))
    return copied


def _signed(fields: dict[str, Any]) -> bytes:
    keys = [(KEYS.clients[name].public.hex, KEYS.clients[name]) for name in sorted(KEYS.clients)]
    return dsse_sign(canonical_encode(fields), CHARTER_PAYLOAD_TYPE, keys[:2])


def test_a_charter_without_a_validator_keeps_its_bytes() -> None:
    charter = make_charter(charter_fields(make_keys(5)))
    assert b"robustness" not in charter.payload()
    assert b"validator" not in charter.payload()
    # Computed before the sections existed.
    digest = hashlib.sha256(charter.payload()).hexdigest()
    assert digest == "42fb460448511b285a0057c2f7d9d6fe468c8ac6c194d889ccd6b82c6d8bcc0e"
    federation = Federation.of(charter)
    assert (federation.robust, federation.validator) == (False, "")


def test_null_sections_are_not_another_form_of_none() -> None:
    fields = {**charter_fields(KEYS), "validator": None, "robustness": None}
    with pytest.raises(CharterError, match="re-encode"):
        read_charter_payload(canonical_encode(fields))


def test_a_root_that_is_null_is_not_another_form_of_none() -> None:
    fields = _fields(root=None)
    with pytest.raises(CharterError, match="re-encode"):
        read_charter_payload(canonical_encode(fields))
    with pytest.raises(CharterViewError):
        open_as_auditor(_signed(fields))
    del fields["robustness"]["root"]
    assert b'"root"' not in make_charter(fields).payload()


@pytest.mark.parametrize("groups", [[], TWO_GROUPS])
@pytest.mark.parametrize("root", [{}, {"root": "client-02"}])
def test_protocol_and_auditor_read_the_same(groups: list[Any], root: dict[str, str]) -> None:
    fields = _fields(groups=groups, **root)
    charter = make_charter(fields)
    assert read_charter_payload(canonical_encode(fields)) == charter
    view = open_as_auditor(_signed(fields))
    assert view.digest == charter.hash
    assert view.validator is not None
    assert view.robustness == fields["robustness"]
    federation = Federation.of(charter)
    assert federation.robust
    assert federation.validator == view.validator.name == "validator"
    assert view.role_of("validator") == "validator"
    assert {n: p.identity.raw for n, p in view.parties.items()} == {
        name: key.raw for name, key in federation.identities.items()
    }
    assert charter.robustness is not None
    assert charter.robustness.root == root.get("root")
    assert len(charter.robustness.layout(LEAST_ROBUST_VALUES).groups) == max(len(groups), 1)


def _rule(**changes: Any) -> Edit:
    return lambda fields: fields["robustness"].update(changes)


def _validator(**changes: Any) -> Edit:
    return lambda fields: fields["validator"].update(changes)


def _values(count: int) -> Edit:
    return lambda fields: fields["quantiser"].update(values=count)


def _client_mode(fields: dict[str, Any]) -> None:
    fields["privacy"] = {
        "mode": "client",
        "epsilon": 8.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "clip_l2": 1.0,
        "mechanism": "discrete-gaussian",
        "rotation": False,
    }


def _shared_noise(fields: dict[str, Any]) -> None:
    fields["privacy"] = {
        "mode": "shared-noise",
        "epsilon": 8.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "sampling_rate": 0.1,
        "steps_per_round": 3,
        "clip": 1.0,
        "mechanism": "discrete-gaussian",
        "honest_shares": 3,
        "batch": 10.0,
    }


def _groups(*spans: list[list[int]]) -> Edit:
    named = [{"name": f"g{place}", "spans": one} for place, one in enumerate(spans)]
    return _rule(groups=named)


REFUSED: dict[str, tuple[Edit, str]] = {
    "a rule without a validator": (lambda f: f.pop("validator"), "come together"),
    "a validator without a rule": (lambda f: f.pop("robustness"), "come together"),
    "the validator is a client": (_validator(name="client-01"), "is another party's"),
    "the validator is the coordinator": (_validator(name="coordinator"), "is another party's"),
    "the validator has a client's key": (
        lambda f: f["validator"].update(identity=f["roster"][0]["identity"]),
        "same identity key",
    ),
    "the validator has a client's transport": (
        lambda f: f["validator"].update(transport=f["roster"][0]["transport"]),
        "same transport key",
    ),
    "a validator that is not enrolled": (lambda f: f["validator"].pop("enrolment"), "enrolment"),
    "unknown field": (_rule(seed=1), "robustness.seed"),
    "a root that is a number": (_rule(root=1), "robustness.root"),
    "a root who is no client": (_rule(root="validator"), "'validator', who is no client"),
    "a root that is not named": (_rule(root=""), "who is no client"),
    "rule that needs vectors": (_rule(rule="coordinate-median"), "take a rule on inner products"),
    "another rule that needs vectors": (_rule(rule="trimmed-mean"), "norm-bound"),
    "rule in capitals": (_rule(rule="Krum"), "robustness.rule"),
    "a parameter that is text": (_rule(parameters={"keep": "3"}), "robustness.parameters.keep"),
    "a key for no round": (_rule(key_rounds=0), "robustness.key_rounds"),
    "no norm": (_rule(norm_bound=0), "robustness.norm_bound"),
    "a norm beyond what is measured": (_rule(norm_bound=1e9), "expected 1 to 2\\^40"),
    "a payload too small for a sketch": (_values(LEAST_ROBUST_VALUES - 1), "expected at least"),
    "three groups": (_groups([[0, 1]], [[1, 2]], [[2, 3]]), "expected one of"),
    "groups that overlap": (_groups([[0, HALF + 1]], [[HALF, 2 * HALF]]), "exactly one group"),
    "groups with a gap": (_groups([[0, HALF]], [[HALF + 1, 2 * HALF]]), "exactly one group"),
    "groups that leave values out": (_groups([[0, HALF]], [[HALF, 2 * HALF - 1]]), "cover"),
    "a group too small": (_groups([[0, 9]], [[9, 2 * HALF]]), "expected at least"),
    "a span of three": (_groups([[0, HALF, 1]], [[HALF, 2 * HALF]]), "robustness.groups.0.spans"),
    "mode client": (_client_mode, "take privacy mode local or none"),
    "mode shared-noise": (_shared_noise, "take privacy mode local or none"),
    "nobody can be removed": (
        lambda f: f["limits"].update(dropouts=0),
        "raise limits.dropouts, which counts removed clients too",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_work_is_refused_by_both(fault: str) -> None:
    edit, text = REFUSED[fault]
    fields = _fields()
    edit(fields)
    with pytest.raises(CharterError, match=text):
        make_charter(fields)
    with pytest.raises(CharterViewError):
        open_as_auditor(_signed(fields))


@pytest.mark.parametrize("suite", ["layered", "masked", "sealed", "clear"])
def test_every_suite_takes_a_robust_rule(suite: str) -> None:
    fields = {**_fields(), "suite": suite}
    assert Federation.of(make_charter(fields)).robust
