"""Mode `shared-noise` on the command line: drafting, reading and forecasting."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.privacy.in_words import privacy_table
from secure_fedfm.cli.charter_terms import choose_privacy, read_training_file
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.privacy.recipe import SharedNoiseRequest
from secure_fedfm.storage.database import Database
from tests.secure_fedfm.cli.conftest import CLIENTS, Run, Sites

# A loose delta and few steps: what is tested here is not the search.
SHARED = (
    "--privacy", "shared-noise", "--labels", "greet,part", "--rows-per-institution", 1000,
    "--epsilon", 1, "--steps-per-round", 10, "--rounds", 2,
)  # fmt: skip


def draft(run: Run, sites: Sites, *options: object) -> dict[str, Any]:
    sites.draft.unlink(missing_ok=True)
    ran = run(*sites.new_charter(), *SHARED, *options, "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert isinstance(document, dict)
    return document


@pytest.mark.usefixtures("no_model_loading")
def test_a_draft_has_noise_for_all_its_sessions_and_says_what_it_buys(
    run: Run, sites: Sites
) -> None:
    ran = run(*sites.new_charter(), *SHARED, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    charter, privacy = found["charter"], found["charter"]["privacy"]
    clients, least = len(CLIENTS), found["thresholds"]["min_accepted"]
    assert privacy["mode"] == "shared-noise"
    assert (privacy["steps_per_round"], privacy["sampling_rate"]) == (10, 0.1)
    assert privacy["honest_shares"] == least - 1
    assert privacy["batch"] == pytest.approx(0.1 * 1000 * clients)
    assert charter["server_optimiser"]["kind"] == "sgd"
    assert charter["server_optimiser"]["schedule_steps"] == 20
    assert charter["adapter"]["targets"] == "none"
    assert charter["quantiser"]["lane_bits"] == 32
    assert charter["quantiser"]["clip"] == privacy["clip"] * privacy["batch"]
    text = ran.err
    assert "every single training row" in text
    assert "with up to 1 institution on their side" in text
    assert "epsilon 1 at delta 1e-05" in text
    assert "2 rounds of 10 steps cost epsilon 0.9" in text
    assert "if more collude" in text
    assert "2: epsilon" in text
    ran = run("charter", "show", sites.draft)
    assert ran.code == 0
    assert "if masks fall" in ran.err


@pytest.mark.usefixtures("no_model_loading")
def test_noise_for_everybody_protects_from_no_coalition(run: Run, sites: Sites) -> None:
    all_of_them = draft(run, sites, "--dropouts", 0, "--honest-shares", len(CLIENTS))
    default = draft(run, sites)
    # The same noise on the sum, less of it in every share.
    assert all_of_them["charter"]["privacy"]["noise_multiplier"] == pytest.approx(
        default["charter"]["privacy"]["noise_multiplier"]
    )
    spare = draft(run, sites, "--spare-rounds", 2, "--mechanism", "skellam")
    assert spare["charter"]["privacy"]["mechanism"] == "skellam"
    assert (
        spare["charter"]["privacy"]["noise_multiplier"]
        > 1.2 * default["charter"]["privacy"]["noise_multiplier"]
    )


@pytest.mark.usefixtures("no_model_loading")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "clear"), "suite clear"),
        (("--suite", "sealed"), "suite sealed"),
        (("--honest-shares", 1), "honest_shares is 1"),
        (("--steps-per-round", 4000), "steps per round"),
        (("--sampling-rate", 0), "sampling rate"),
        (("--example-clip", -1), "example clip"),
        (("--epsilon", 0), "epsilon"),
    ],
)
def test_what_breaks_the_promise_is_refused_by_name(
    run: Run, sites: Sites, options: tuple[object, ...], message: str
) -> None:
    ran = run(*sites.new_charter(), *SHARED, *options)
    assert ran.code != 0
    assert message in ran.err


def test_options_of_the_mode_belong_to_it() -> None:
    with pytest.raises(ConfigurationError, match="--honest-shares: only with"):
        choose_privacy("local", 8.0, 1e-5, 100, 3, None, {"honest_shares": 3, "mechanism": None})
    with pytest.raises(ConfigurationError, match="rows-per-institution"):
        choose_privacy("shared-noise", 8.0, 1e-5, None, 3, None)
    found = choose_privacy("shared-noise", 8.0, 1e-5, 100, 3, None, {"example_clip": 0.5})
    assert isinstance(found, SharedNoiseRequest)
    assert (found.clip, found.steps_per_round, found.sampling_rate) == (0.5, 50, 0.1)


def test_the_training_file_may_set_the_optimiser(tmp_path: Path) -> None:
    request = SharedNoiseRequest(epsilon=8.0, rounds=3, expected_rows=100)
    file = tmp_path / "training.toml"
    file.write_text('[server_optimiser]\nkind = "adam"\nhead_learning_rate = 0.05\n')
    steps = request.optimiser(5)
    assert (steps.head_learning_rate, steps.adapter_learning_rate) == (0.89, 0.2225)
    assert replace(request, epsilon=1.0, expected_rows=2000).optimiser(5).head_learning_rate == 1.0
    _, adapter, optimiser = read_training_file(file, 3, steps=steps)
    assert isinstance(optimiser, StepOptimiserSpec)
    assert (optimiser.kind, optimiser.head_learning_rate) == ("adam", 0.05)
    assert optimiser.schedule_steps == 150
    assert adapter.head_only
    file.write_text('[server_optimiser]\nkind = "fedavg"\n')
    with pytest.raises(ConfigurationError, match=r"training\.toml"):
        read_training_file(file, 3, steps=steps)


@pytest.mark.usefixtures("no_model_loading")
def test_signed_and_forecast_before_the_first_charge(run: Run, sites: Sites) -> None:
    draft(run, sites)
    for name in CLIENTS[:3]:
        ran = run("charter", "sign", "--site", sites.client(name), sites.draft)
        assert ran.code == 0, ran.err
    site = sites.client(CLIENTS[0])
    shutil.copy(sites.draft, site / "charter.json")
    Database(site / "state.sqlite").close()
    ran = run("ledger", "forecast", site, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["institutions"] == [
        {"institution": "every institution", "epsilon": 0.0, "rounds_left": 2}
    ]
    assert "with so many institutions colluding: 1: epsilon 0.9" in ran.err


def test_epsilon_with_some_shares_known(run: Run) -> None:
    ran = run(
        "ledger", "epsilon", "--noise-multiplier", 1.5, "--sampling-rate", 0.1, "--steps", 10,
        "--delta", 1e-5, "--honest-shares", 2, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["colluding"]
    assert [row["colluding"] for row in rows] == [0, 1, 2]
    assert rows[0]["epsilon"] < rows[1]["epsilon"]
    assert rows[2]["epsilon"] == "infinity"
    assert "2 of 2 shares of the noise known: no protection" in ran.err


def test_mode_none_promises_nothing() -> None:
    assert "no differential privacy" in str(privacy_table(None, 3)["protects"])
