"""The allow-list of mechanisms: strict in both directions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_audit.errors import PrivacyEventError
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    CompletedRound,
    CompletedSession,
    DiscreteGaussianSteps,
    Event,
    GaussianSteps,
    HyperparameterTrials,
    SkellamSteps,
    decode_event,
    encode_event,
    event_from_json,
    event_to_json,
    least_sensitivity_squared,
)
from fedfm_crypto.errors import CanonicalJSONError, FedFMError

GAUSSIAN = GaussianSteps(noise_multiplier=1.1, clip=1.0, sampling_rate=0.05, steps=100)
SKELLAM = SkellamSteps(
    share_variance=1e6,
    honest_shares=3,
    clip=0.5,
    scale=4096,
    rounding="sum",
    sensitivity_squared=least_sensitivity_squared(0.5, 4096, 1000, "sum"),
    dimension=1000,
    sampling_rate=0.1,
    steps=10,
    distance=1e-20,
)
DISCRETE = DiscreteGaussianSteps(
    **{name: value for name, value in event_to_json(SKELLAM).items() if name != "type"}
)
EVENTS: list[Event] = [
    GAUSSIAN,
    DISCRETE,
    SKELLAM,
    HyperparameterTrials(trials=4, event=SKELLAM),
    ClearRelease(what="number of rows"),
    CompletedRound(charge=3, accepted=5, aggregate="ab" * 32),
    CompletedSession(charge=4, steps=50, accepted=4, aggregate="ab" * 32),
    AbortedRound(charge=3, reason="too few clients"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_there_and_back(event: Event) -> None:
    assert decode_event(encode_event(event)) == event
    assert event_from_json(event_to_json(event)) == event


def test_whole_numbers_stay_floats() -> None:
    """Canonical JSON writes 1.0 as 1; the event is the same."""
    found = decode_event(encode_event(replace(GAUSSIAN, sampling_rate=1.0)))
    assert isinstance(found, GaussianSteps)
    assert isinstance(found.sampling_rate, float)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_missing_and_extra_fields_are_refused(event: Event) -> None:
    fields = event_to_json(event)
    for name in fields:
        with pytest.raises(PrivacyEventError):
            event_from_json({key: value for key, value in fields.items() if key != name})
    with pytest.raises(PrivacyEventError, match="unknown"):
        event_from_json({**fields, "epsilon": 0.1})


@pytest.mark.parametrize(
    "document",
    [
        {"type": "laplace", "noise_multiplier": 1.0},
        {"type": "dp_accounting.dp_event.GaussianDpEvent", "noise_multiplier": 1.0},
        {"module_name": "os", "class_name": "system", "command": "true"},
        {"type": ["gaussian"]},
        {"type": "LatticeSteps"},
        [],
        "gaussian",
        None,
    ],
    ids=repr,
)
def test_unknown_types_are_refused(document: object) -> None:
    with pytest.raises(PrivacyEventError, match=r"unknown event type|JSON object"):
        event_from_json(document)


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        (GAUSSIAN, "noise_multiplier", 0),
        (GAUSSIAN, "noise_multiplier", -1.0),
        (GAUSSIAN, "noise_multiplier", math.inf),
        (GAUSSIAN, "noise_multiplier", math.nan),
        (GAUSSIAN, "noise_multiplier", True),
        (GAUSSIAN, "noise_multiplier", "1.1"),
        (GAUSSIAN, "sampling_rate", 0),
        (GAUSSIAN, "sampling_rate", 1.01),
        (GAUSSIAN, "steps", 0),
        (GAUSSIAN, "steps", 1.5),
        (GAUSSIAN, "steps", True),
        (GAUSSIAN, "clip", 0),
        (SKELLAM, "share_variance", 0.5),
        (SKELLAM, "honest_shares", 0),
        (SKELLAM, "rounding", "nearest"),
        (SKELLAM, "distance", -1e-9),
        (SKELLAM, "dimension", 0),
        (EVENTS[3], "trials", 0),
        (EVENTS[3], "event", {"type": "clear", "what": "x"}),
        (EVENTS[3], "event", {"type": "os.system"}),
        (EVENTS[4], "what", ""),
        (EVENTS[4], "what", "x" * 201),
        (EVENTS[5], "aggregate", "AB" * 32),
        (EVENTS[5], "accepted", 0),
        (EVENTS[6], "charge", -1),
    ],
)
def test_values_out_of_range_are_refused(event: Event, field: str, value: object) -> None:
    with pytest.raises(PrivacyEventError):
        event_from_json({**event_to_json(event), field: value})


def test_a_sensitivity_below_the_clip_is_refused() -> None:
    """An institution cannot make its charge cheaper by declaring less than it may release."""
    least = SKELLAM.sensitivity_squared
    with pytest.raises(PrivacyEventError, match=f"can reach {least}"):
        replace(SKELLAM, sensitivity_squared=least - 1)
    replace(SKELLAM, sensitivity_squared=least + 1)


def test_the_sensitivity_is_exact() -> None:
    assert least_sensitivity_squared(1.0, 256, 131072, "vector") == 98741
    assert least_sensitivity_squared(1.0, 10, 4, "sum") == 144
    assert least_sensitivity_squared(1.0, 10, 4, "vector") == 112
    large = least_sensitivity_squared(1.0, 2**26, 2**20, "sum")
    assert large == (2**26 + 2**10) ** 2


def test_sampled_discrete_gaussian_needs_a_fine_grid() -> None:
    with pytest.raises(PrivacyEventError, match="raise the scale"):
        replace(DISCRETE, share_variance=20.0)
    replace(DISCRETE, share_variance=20.0, sampling_rate=1.0)


def test_the_l1_sensitivity_of_an_integer_vector() -> None:
    assert SKELLAM.sensitivity_l1 == math.isqrt(1000 * SKELLAM.sensitivity_squared)
    small = replace(SKELLAM, dimension=2**30, sensitivity_squared=2**40)
    assert small.sensitivity_l1 == 2**35


@pytest.mark.parametrize("data", [b"{}", b'{"type": "clear"}', b"[]", b"null", b"nonsense"])
def test_bytes_that_are_no_event(data: bytes) -> None:
    with pytest.raises((PrivacyEventError, CanonicalJSONError)):
        decode_event(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(data=st.data())
def test_whatever_is_put_in_a_field_ends_in_an_event_or_the_error(data: st.DataObject) -> None:
    fields: dict[str, Any] = event_to_json(data.draw(st.sampled_from(EVENTS)))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(JSON)
    try:
        event_from_json(fields)
    except FedFMError:
        return


def test_the_published_schema_names_the_same_types() -> None:
    text = resources.files("fedfm_audit").joinpath("schemas", "privacy-v1.json").read_text()
    event = json.loads(text)["properties"]["predicate"]["properties"]["event"]
    assert sorted(event["properties"]["type"]["enum"]) == sorted(event.type for event in EVENTS)
