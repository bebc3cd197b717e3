"""Must show 4 of the protocol: a thousand clients, a hundred thousand values, a tenth vanishes."""

from __future__ import annotations

import time

import pytest

from fedfm_protocols.scenario.crashes import Crash
from fedfm_protocols.scenario.form import Expectation, FederationForm, RoundForm, Scenario
from fedfm_protocols.scenario.runner import run_scenario

CLIENTS, VALUES = 1000, 100_000
LIMIT_S = 600


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_clients_sum_exactly_in_ten_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(f"client-{number:02d}" for number in range(1, CLIENTS + 1))
    gone = names[5::10]
    scenario = Scenario(
        name="large-cohort",
        title="A thousand clients, a tenth of them gone before their upload",
        large=True,
        federation=FederationForm(
            clients=CLIENTS, colluding=CLIENTS // 10, dropouts=CLIENTS // 10, values=VALUES
        ),
        rounds=[
            RoundForm(
                acts=[Crash(act="crash", client=name, before="UploadHash") for name in gone],
                expect=Expectation(removed=gone, behind=gone),
            )
        ],
    )
    started, used = time.monotonic(), time.process_time()
    result = run_scenario(scenario)
    seconds, used = time.monotonic() - started, time.process_time() - used
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients, {VALUES} values, {len(gone)} gone: {seconds:.0f} s, of which "
            f"{used:.0f} s of processor time"
        )
    assert result.verdict.ok, result.verdict.failures[:5]
    # One thread: on a machine that does nothing else the two are the same.
    assert used < LIMIT_S
