"""Charters that name a validator and a rule: drafted, and refused where none can work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfm_protocols.charter import Charter
from fedfm_protocols.errors import CharterError, EnrolmentError
from fedfm_protocols.federation import Federation
from secure_fedfm import founding
from secure_fedfm.cli.charter_files import CharterFile
from secure_fedfm.cli.charter_rule import choose_rule
from secure_fedfm.cli.charter_terms import read_training_file
from secure_fedfm.cli.charter_view import charter_text
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.recipes import votes_for
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.votes import VoteSpec
from secure_fedfm.privacy.recipe import PrivacySections, client_privacy
from secure_fedfm.robust.drafting import RobustRequest, read_parameters
from secure_fedfm.services.learning_specs import LearningSpecs
from secure_fedfm.services.limits import limits_for
from tests.secure_fedfm.test_founding import CLIENTS, draft, enrolled

VALIDATOR = enrolled("judge", "validator")
VALUES = 1 << 16


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founding, "learning_facts", lambda *_: (VALUES, "11" * 32, ()))


def robust(rule: str = "cosine-memory", **parameters: float) -> Charter:
    return draft(robust=RobustRequest(VALIDATOR, rule, parameters))


def test_a_draft_names_validator_and_rule() -> None:
    charter = robust("norm-bound", multiple=3)
    assert charter.validator is not None
    assert charter.robustness is not None
    assert (charter.validator.name, charter.validator.enrolment) == ("judge", VALIDATOR.digest)
    assert dict(charter.robustness.parameters) == {"multiple": 3}
    LearningSpecs.of(Federation.of(charter))
    text = charter_text(CharterFile(charter, b"", ()))
    assert "validator" in text
    assert "norm-bound" in text
    assert "multiple 3" in text


def test_messages_of_scores_fit_the_transport() -> None:
    federation = Federation.of(robust())
    pairs = len(CLIENTS) * (len(CLIENTS) + 1) // 2
    assert limits_for(federation).max_message_bytes > pairs * 41_000 + 5 * 33_000


@pytest.mark.parametrize(
    ("rule", "parameters", "changes", "message"),
    [
        ("krum", {}, {}, "accepts a single client"),
        ("trimmed-mean", {}, {"suite": "clear"}, "gives no sum of whole updates"),
        ("fltrust", {}, {}, "names none: give --robust-root"),
        ("flame", {"f": 1}, {}, "no parameter 'f'"),
        ("multi-krum", {"byzantine": 2}, {}, "needs 7 clients"),
        ("multi-krum", {"keep": 3}, {}, "accepts at most 3 of 5"),
        (
            "flame",
            {},
            {"privacy": PrivacySections({"mode": "client"})},
            "no robust rule works with it; choose mode local or none",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    parameters: dict[str, float],
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(founding, "learning_facts", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ConfigurationError, match=message):
        draft(robust=RobustRequest(VALIDATOR, rule, parameters), **changes)


@pytest.mark.parametrize(
    ("rule", "root", "message"),
    [
        ("fltrust", "judge", "--robust-root is 'judge', expected one of the clients"),
        ("cosine-memory", CLIENTS[0].name, "would not look at a root"),
    ],
)
def test_a_root_must_be_a_client_and_of_use(
    monkeypatch: pytest.MonkeyPatch, rule: str, root: str, message: str
) -> None:
    monkeypatch.setattr(founding, "learning_facts", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ConfigurationError, match=message):
        draft(robust=RobustRequest(VALIDATOR, rule, root=root))


def test_a_draft_names_the_root() -> None:
    name = CLIENTS[1].name
    request = choose_rule(
        VALIDATOR, rule="fltrust", parameters=None, norm_bound=None, key_rounds=None, root=name
    )
    charter = draft(robust=request)
    assert charter.robustness is not None
    assert charter.robustness.root == name
    text = " ".join(charter_text(CharterFile(charter, b"", ())).split())
    assert f"compared with {name}" in text


def test_an_update_too_short_for_a_sketch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founding, "learning_facts", lambda *_: (VALUES - 1, "11" * 32, ()))
    with pytest.raises(CharterError, match="65535 values"):
        robust()


def test_the_enrolment_must_be_a_validators() -> None:
    with pytest.raises(EnrolmentError, match="keygen --role validator"):
        RobustRequest(CLIENTS[0])


def test_options_of_a_rule_need_a_validator() -> None:
    nothing = {"rule": None, "parameters": None, "norm_bound": None, "key_rounds": None}
    assert choose_rule(None, **nothing) is None
    assert choose_rule(VALIDATOR, **nothing) == RobustRequest(VALIDATOR)
    with pytest.raises(ConfigurationError, match="give --validator-enrolment too"):
        choose_rule(None, rule="flame", parameters=None, norm_bound=None, key_rounds=None)
    chosen = choose_rule(
        VALIDATOR, rule="flame", parameters=["multiple=3"], norm_bound=8.0, key_rounds=5
    )
    assert chosen == RobustRequest(VALIDATOR, "flame", {"multiple": 3}, 8.0, 5)


def test_parameters_are_numbers_by_name() -> None:
    found = read_parameters(["keep=3", "reach = 1.5", "least_cosine=-1"])
    assert found == {"keep": 3, "reach": 1.5, "least_cosine": -1}
    assert type(found["keep"]) is int
    for wrong in ("keep", "keep=", "=3", "keep=many"):
        with pytest.raises(ConfigurationError, match="expected NAME=NUMBER"):
            read_parameters([wrong])
    with pytest.raises(ConfigurationError, match="each name once"):
        read_parameters(["keep=1", "keep=2"])


def test_every_rule_of_the_registry_is_documented() -> None:
    from secure_fedfm.robust.reasons import REASONS
    from secure_fedfm.robust.registry import RULES, VECTOR_RULES, working_rules

    page = Path(__file__).resolve().parents[3] / "docs" / "robust-rules.md"
    text = page.read_text("utf-8")
    for name in (*RULES, *VECTOR_RULES, *REASONS):
        assert f"`{name}`" in text, name
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(any(row.startswith(f"| `{rule}` |") for row in rows) for rule in working_rules())


def test_a_draft_with_the_default_rule_takes_votes(tmp_path: Path) -> None:
    assert RobustRequest(VALIDATOR).votes
    assert not RobustRequest(VALIDATOR, "norm-bound").votes
    file = tmp_path / "terms.toml"
    file.write_text("[training]\nhead_learning_rate = 0.01\n[server_optimiser]\nshare = 0.7\n")
    plan, _, votes = read_training_file(file, 7, votes=True)
    assert votes == replace(votes_for(plan, 7), share=0.7)
    assert isinstance(votes, VoteSpec)
    assert votes.head_step == pytest.approx(0.06)
    specs = LearningSpecs.of(
        Federation.of(draft(robust=RobustRequest(VALIDATOR), server_optimiser=votes))
    )
    assert specs.votes == votes
    file.write_text('[server_optimiser]\nkind = "fedadam"\n')
    assert read_training_file(file, 7, votes=True)[2] == ServerOptimiserSpec("fedadam")
    file.unlink()
    assert read_training_file(None, 7)[2] == ServerOptimiserSpec()


def test_groups_are_drafted_where_nobody_votes() -> None:
    def groups(**changes: Any) -> list[str]:
        section = draft(robust=RobustRequest(VALIDATOR), **changes).robustness
        assert section is not None
        return [group.name for group in section.groups]

    assert groups() == ["first", "rest"]
    assert groups(server_optimiser=VoteSpec()) == []


def test_votes_are_refused_where_noise_would_decide_them() -> None:
    charter = draft(
        server_optimiser=VoteSpec(),
        privacy=client_privacy(epsilon=8.0, delta=1e-5, rounds=3, clip=4.0),
        scale=256,
        lane_bits=32,
    )
    with pytest.raises(ConfigurationError, match="noise would decide the votes"):
        LearningSpecs.of(Federation.of(charter))
