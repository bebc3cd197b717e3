"""Every shipped scenario inside a session: its acts in the first, a middle or the last of its
steps.  What attacks a single round is refused in a step as well, and the steps before stand.

`make test` plays every second of those of suite ``masked`` that do something in a step, in the
middle of three; `make soak` plays everything, in every suite, in the first, the middle and the
last step.
"""

from __future__ import annotations

import pytest

from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.scenario.acts import ActForm
from fedfm_protocols.scenario.explain import explain
from fedfm_protocols.scenario.form import Expectation, Scenario, parse_scenario, with_suite
from fedfm_protocols.scenario.in_session import in_session
from fedfm_protocols.scenario.library import shipped, shipped_names
from fedfm_protocols.scenario.runner import Result, run_scenario
from fedfm_protocols.scenario.suites import missing_for
from fedfm_protocols.scenario.transcript import read_transcript
from tests.protocols.test_scenarios_layered import OF_ANOTHER_SUITE, layered

STEPS = 3
MIDDLE = 1
SINGLE = [
    name
    for name in shipped_names()
    if shipped(name).federation.session == 1 and not shipped(name).federation.robust
]
MASKED = [name for name in SINGLE if shipped(name).federation.suite == "masked"]


def in_a_step(scenario: Scenario) -> bool:
    """Whether it does something in a step, and is quick."""
    acts = [act for one in scenario.rounds for act in one.acts]
    told = any(not isinstance(act, ActForm) or act.of_a_step for act in acts)
    return told and not scenario.large


def check(scenario: Scenario, step: int, steps: int = STEPS) -> Result:
    if missing_for(scenario.federation.suite):
        pytest.skip(missing_for(scenario.federation.suite))
    result = run_scenario(in_session(scenario, steps, step))
    assert result.verdict.ok, result.verdict.failures
    return result


@pytest.mark.parametrize("name", [name for name in MASKED if in_a_step(shipped(name))][::2])
def test_a_scenario_in_the_middle_of_a_session(name: str) -> None:
    check(shipped(name), MIDDLE)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("name", SINGLE)
def test_every_scenario_in_every_step(name: str, step: int) -> None:
    check(shipped(name), step)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize(
    "name",
    [n for n in MASKED if n not in OF_ANOTHER_SUITE and not shipped(n).large],
)
def test_every_scenario_of_masked_in_layered(name: str, step: int) -> None:
    check(layered(shipped(name)), step)


def test_a_session_of_one_step_is_the_round() -> None:
    scenario = shipped("honest")
    assert in_session(scenario, 1, 0) is scenario


def test_what_is_refused_in_a_later_step_leaves_the_steps_before() -> None:
    result = check(shipped("double-listed-victim"), 2)
    assert result.stage is not None
    first = result.stage.observer.rounds[0]
    assert first.finished is not None
    assert (first.finished.outcome, first.good_steps()) == ("completed", 2)
    assert first.finished.reason.startswith("ended after 2 of 3 steps: 0 clients voted")
    assert first.released_by(result.scenario.honest) == 2 * 25
    lines = list(explain(read_transcript(result.transcript)))
    assert "Every round is a session of 3 steps, without noise" in lines
    assert any("(2) coordinator" in line and "Cohort," in line for line in lines)


def test_an_honest_session_in_sealed_and_clear() -> None:
    check(with_suite(shipped("honest"), "sealed"), 0, 2)
    check(shipped("honest-clear"), 1, 2)


@pytest.mark.parametrize(("steps", "step"), [(3, 3), (2, -1), (0, 0), (1025, 0)])
def test_steps_that_do_not_exist(steps: int, step: int) -> None:
    with pytest.raises(ScenarioError, match="expected 0 to"):
        in_session(shipped("honest"), steps, step)


def test_a_scenario_about_sessions_is_not_put_into_another() -> None:
    with pytest.raises(ScenarioError, match="says itself"):
        in_session(shipped("session-honest"), 3, 1)


def test_a_robust_scenario_has_rounds_of_one_step() -> None:
    with pytest.raises(ScenarioError, match="a validator judges rounds of one step"):
        in_session(shipped("robust-honest"), 3, 1)


def test_an_act_in_a_step_that_the_session_does_not_have() -> None:
    act = {"act": "drop", "message": "Upload", "from": "client-03", "step": 1}
    with pytest.raises(ScenarioError, match="step 1 of a session with 1 steps"):
        parse_scenario({"name": "x", "title": "x", "rounds": [{"acts": [act]}]})


# ---------------------------------------------------------------- verdicts that can fail


def honest_session(**expect: object) -> Result:
    fields = {
        "name": "x",
        "title": "x",
        "federation": {"session": 2},
        "rounds": [{"expect": Expectation(**expect)}],  # type: ignore[arg-type]
    }
    return run_scenario(parse_scenario(fields))


def test_good_steps_are_counted() -> None:
    assert honest_session().verdict.ok
    failures = honest_session(good_steps=1).verdict.failures
    assert [line.what for line in failures] == ["good steps", "ended early"]


def test_the_sum_of_every_step_is_looked_at() -> None:
    """Only the first of three sums is another: the last one being right does not hide it."""
    scenario = in_session(shipped("sum-changed-for-all"), 3, 0)
    assert run_scenario(scenario).verdict.ok
    rounds = [
        one.model_copy(update={"expect": one.expect.model_copy(update={"sum_exact": True})})
        for one in scenario.rounds
    ]
    failures = run_scenario(scenario.model_copy(update={"rounds": rounds})).verdict.failures
    assert [line.what for line in failures] == ["sum exact"]
