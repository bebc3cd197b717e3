"""Every shipped scenario of suite ``masked``, played in ``layered`` (and the honest ones in
``sealed``): what defends the masks defends them inside the encryption too.

Where the suite itself is what a scenario is about, or where another check notices first, the
table below says so; nothing else may differ.

`make test` plays those that end differently where encryption wraps what is sent: uploads and their
hashes, reveals, sums, and one of each kind of the rest.  The others, about cohorts, votes, offers,
shares, closings, the log and the order of messages, come to no ciphertext, or to the same end:
suite `masked` shows what they show (test_scenarios.py), and `make soak` plays them here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedfm_protocols.scenario.form import ErrorForm, Expectation, Scenario, with_suite
from fedfm_protocols.scenario.library import shipped, shipped_names
from fedfm_protocols.scenario.runner import run_scenario
from fedfm_protocols.scenario.suites import missing_for

pytestmark = pytest.mark.skipif(bool(missing_for("layered")), reason=missing_for("layered"))

OF_ANOTHER_SUITE = {
    "honest-clear": "about suite clear",
    "clear-charter": "about suite clear",
    "key-round-without-use": "about suites without encryption",
    "robust-false-checks": "about a coordinator that reads the sum",
}
WRAPPED = {
    "copied-upload",
    "corrupted-bytes",
    "differencing",
    "double-listed-victim",
    "dropout-before-unmask",
    "dropout-before-upload",
    "false-reveals",
    "false-sums",
    "false-upload-sets",
    "false-uploads",
    "honest",
    "honest-log",
    "overflow-at-bound",
    "overflow-beyond-bound",
    "robust-honest",
    "robust-lying-sketch",
    "sparse-split-graph",  # seventy clients; masks of neighbours only
    "stolen-key",
    "sum-changed-for-all",
}
NOISE = ErrorForm(error="EquivocationError", text="the sum does not open")


def _short_sums(expect: Expectation, place: int) -> Expectation:
    """A ciphertext that is too short is noticed by its bytes, not by its values."""
    texts = {1: "a ciphertext sum of 55292", 2: "a ciphertext sum of 55295"}
    if place in texts:
        errors = [ErrorForm(error="EquivocationError", text=texts[place])]
        return expect.model_copy(update={"errors": errors})
    deceived = {4: ["client-01", "client-02"], 5: ["client-03"]}
    if place in deceived:  # who is shown another sum sees that it is none, and need not diverge
        errors = [NOISE.model_copy(update={"by": deceived[place]})]
        return expect.model_copy(update={"errors": errors})
    return expect


def _sized_uploads(expect: Expectation, place: int) -> Expectation:
    texts = {2: "upload of client-05: a ciphertext of 63", 3: "upload of client-05: a ciphertext"}
    if place not in texts:
        return expect
    errors = [ErrorForm(by=["coordinator"], error="MalformedMessage", text=texts[place])]
    return expect.model_copy(update={"errors": errors})


def _noticed(expect: Expectation, place: int) -> Expectation:
    """What suite `masked` cannot notice: a ciphertext of nothing opens to noise."""
    return Expectation(outcome="void", errors=[NOISE], released_shares=expect.released_shares)


def _sum_of_another_step(expect: Expectation, place: int) -> Expectation:
    """The openings in a sum say of which step they are: the client does not take it, and waits."""
    if place != 5:
        return expect
    texts = {
        "WrongContext": ("KeyOpening from client-01 is of step 0", "Aggregate from coordinator"),
        "OutOfOrder": ("in state Unmasked",),
        "RoundRefused": ("completed without this site",),
    }
    errors = [
        ErrorForm(by=["client-03"], error=error, text=text)
        for error, listed in texts.items()
        for text in listed
    ]
    return expect.model_copy(update={"errors": errors})


OTHERWISE: dict[str, Callable[[Expectation, int], Expectation]] = {
    "false-sums": _short_sums,
    "false-uploads": _sized_uploads,
    "session-replays": _sum_of_another_step,
    "sum-changed-for-all": _noticed,
}


def layered(scenario: Scenario) -> Scenario:
    """The scenario in suite layered, with what clients send there besides."""
    rounds = []
    for place, one in enumerate(scenario.rounds):
        change = OTHERWISE.get(scenario.name)
        expect = one.expect if change is None else change(one.expect, place)
        sent = {name: _with_wraps(kinds) for name, kinds in expect.sent.items()}
        expect = expect.model_copy(update={"sent": sent})
        # What a session changes of an expectation that is another one here is derived.
        variants = one.in_session if change is None else []
        rounds.append(one.model_copy(update={"expect": expect, "in_session": variants}))
    changed: dict[str, Any] = {"rounds": rounds}
    return with_suite(scenario, "layered").model_copy(update=changed)


def _with_wraps(kinds: list[str]) -> list[str]:
    found = []
    for kind in kinds:
        found += ["WrappedKey", kind] if kind == "Upload" else [kind]
    return found


def test_what_encryption_wraps_is_shipped() -> None:
    assert set(shipped_names()) >= WRAPPED
    assert set(OTHERWISE) <= set(shipped_names())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in WRAPPED else pytest.mark.soak)
        for name in shipped_names()
        if shipped(name).federation.suite == "masked" and name not in OF_ANOTHER_SUITE
    ],
)
def test_a_scenario_of_masked_in_layered(name: str) -> None:
    result = run_scenario(layered(shipped(name)))
    assert result.verdict.ok, result.verdict.failures


@pytest.mark.parametrize("name", ["honest-log", "dropout-before-unmask", "slow-network", "left"])
def test_faults_in_sealed(name: str) -> None:
    result = run_scenario(with_suite(shipped(name), "sealed"))
    assert result.verdict.ok, result.verdict.failures
