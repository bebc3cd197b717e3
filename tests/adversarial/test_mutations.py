"""Every numbered check of the protocol, switched off in turn: some scenario must fail.

All of them are marked `soak`; `make test` tries a sample.
"""

from __future__ import annotations

import pytest

from tests.adversarial.mutation import Mutation
from tests.adversarial.mutations import MUTATIONS, PACKAGE, attempt

SAMPLE = ("A2", "E3", "H6", "N6", "P3", "U9", "W1")
# A check belongs into the table if its module raises; these raise for other reasons.
CHECKED_FILES = {
    "checks.py",
    "client.py",
    "client_cohort.py",
    "client_decrypt.py",
    "client_epoch.py",
    "client_keys.py",
    "client_opening.py",
    "client_result.py",
    "client_upload.py",
    "coordinator_epoch.py",
    "coordinator_inbox.py",
    "coordinator_results.py",
    "key_epoch.py",
    "neighbourhood.py",
    "marks.py",
    "offers.py",
    "client_robust.py",
    "coordinator_robust.py",
    "sketch_keys.py",
    "validator.py",
    "validator_requests.py",
    "witness.py",
}


def test_the_table_is_in_order() -> None:
    assert len(MUTATIONS) >= 30
    assert len({m.id for m in MUTATIONS}) == len(MUTATIONS)
    assert {m.file for m in MUTATIONS} >= CHECKED_FILES
    for mutation in MUTATIONS:
        source = (PACKAGE / mutation.file).read_text("utf-8")
        assert source.count(mutation.text) == 1, f"{mutation.id}: the check has moved"
        compile(source.replace(mutation.text, mutation.replacement), mutation.file, "exec")
        assert (PACKAGE / "scenarios" / f"{mutation.scenario}.toml").is_file(), mutation.id


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.id in SAMPLE], ids=lambda m: m.id)
def test_a_check_that_is_gone_is_noticed(mutation: Mutation) -> None:
    outcome = attempt(mutation, only_first=True)
    assert outcome.caught, f"{mutation.id} ({mutation.defends}): {outcome.symptom or 'unnoticed'}"


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.id)
def test_every_check_that_is_gone_is_noticed(mutation: Mutation) -> None:
    outcome = attempt(mutation)
    assert outcome.caught, f"{mutation.id} ({mutation.defends}): {outcome.symptom or 'unnoticed'}"
