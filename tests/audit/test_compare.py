"""Two bundles against each other: prefixes, forks, and copies that do not tell one history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from fedfm_audit.compare import Relation, compare_bundles
from fedfm_audit.statements import ConclusionPredicate, RoundPredicate
from fedfm_crypto.merkle import leaf_hash, tree_root, verify_consistency
from tests.audit.played_round import DROPOUT, Script
from tests.audit.synthetic import Federation, play_federation

Files = Mapping[str, bytes]


@pytest.fixture(scope="module")
def earlier() -> Federation:
    """The same federation as ``federation``, after its first round."""
    return play_federation(Script(), conclude=False)


def test_a_bundle_and_its_copy(bundle: Files) -> None:
    found = compare_bundles(bundle, dict(bundle))
    assert (found.ok, found.relation, found.problems, found.notes) == (True, Relation.SAME, (), ())


def test_a_later_bundle_extends_an_earlier_one(
    federation: Federation, bundle: Files, earlier: Federation
) -> None:
    found = compare_bundles(earlier.files(), bundle)
    assert found.ok, found.problems
    assert found.relation is Relation.B_EXTENDS_A
    assert compare_bundles(bundle, earlier.files()).relation is Relation.A_EXTENDS_B
    hashes = [leaf_hash(leaf) for leaf in federation.leaves]
    old = len(earlier.leaves)
    verify_consistency(
        old, len(hashes), tree_root(hashes[:old]), tree_root(hashes), list(found.proof)
    )


def test_two_histories_name_the_first_leaf_that_differs(
    federation: Federation, bundle: Files
) -> None:
    other = play_federation(Script(), DROPOUT)
    found = compare_bundles(bundle, other.files())
    assert not found.ok
    assert found.relation is Relation.FORK
    assert found.fork is not None
    first = next(
        index
        for index, (one, two) in enumerate(zip(federation.leaves, other.leaves, strict=False))
        if one != two
    )
    assert found.fork.index == first == 8
    one, two = (statement and statement.predicate for statement in found.fork.statements)
    assert isinstance(one, RoundPredicate)
    assert isinstance(two, RoundPredicate)
    assert (one.round, one.outcome, two.round, two.outcome) == (2, "aborted", 2, "completed")
    said = "\n".join(found.problems)
    assert "its owner told two histories" in said
    assert "client-01" in said.partition("cosigned both")[2]
    text = found.to_text()
    assert text.startswith("DIFFERENT  fork\n")
    assert "A says at leaf 8" in text
    document = json.loads(json.dumps(found.to_json()))
    assert document["first_difference"]["leaf"] == 8
    assert document["first_difference"]["statements"][1]["predicate"]["outcome"] == "completed"


def test_a_fork_at_the_last_leaf_of_logs_of_one_size() -> None:
    honest, lying = play_federation(Script()), play_federation(Script(), conclude=False)

    def understate(said: ConclusionPredicate) -> ConclusionPredicate:
        return replace(said, aborted=7)

    lying.conclude(understate)
    found = compare_bundles(honest.files(), lying.files())
    assert found.fork is not None
    assert found.fork.index == len(honest.leaves) - 1


def test_a_rewritten_leaf_under_the_old_head_is_no_fork_but_a_lie(bundle: Files) -> None:
    """Without the log key: leaves and tiles replaced, the checkpoint kept."""
    forged = {**play_federation(Script(), DROPOUT).files(), "checkpoint": bundle["checkpoint"]}
    found = compare_bundles(bundle, forged)
    assert not found.ok
    assert "B fails step" in found.problems[0]
    assert not any("told two histories" in problem for problem in found.problems)


def test_another_charter_is_named_by_its_fields(bundle: Files) -> None:
    other = play_federation(change_charter=lambda fields: fields.update(rounds=9)).files()
    found = compare_bundles(bundle, other)
    assert "the charters differ in rounds:" in found.problems[0]
    strangers = play_federation(seed=b"other").files()
    assert any(
        "not bundles of one federation" in problem
        for problem in compare_bundles(bundle, strangers).problems
    )


def test_cosigners_that_differ_are_noted_and_no_difference(
    federation: Federation, bundle: Files
) -> None:
    fewer = federation.files(witnesses=federation.names[:4])
    found = compare_bundles(bundle, fewer)
    assert found.ok
    assert found.notes == ("only A's head is cosigned by ward-notes/client-05",)


def test_a_head_without_its_quorum_is_a_difference(federation: Federation, bundle: Files) -> None:
    found = compare_bundles(bundle, federation.files(witnesses=federation.names[:2]))
    assert not found.ok
    assert found.problems[0].startswith("B fails step 1")


def test_transcripts_are_held_against_the_common_statements(bundle: Files) -> None:
    name = "transcripts/000002.json"
    other = {**bundle, name: bundle[name] + b" "}
    assert compare_bundles(bundle, other).problems == (
        f"B holds another {name} than leaf 8 states",
    )
    del other[name]
    assert compare_bundles(other, bundle).problems == (f"A lacks {name}, which leaf 8 states",)


def test_what_cannot_be_read_is_not_called_the_same(bundle: Files) -> None:
    for other in ({}, {"charter.json": bundle["charter.json"]}):
        found = compare_bundles(bundle, other)
        assert (found.ok, found.relation) == (False, Relation.INCOMPARABLE)
        json.dumps(found.to_json())


def test_a_policy_of_ones_own_judges_both(bundle: Files) -> None:
    strangers = play_federation(seed=b"other").files()["policy"]
    found = compare_bundles(bundle, bundle, policy=strangers)
    assert not found.ok
    assert compare_bundles(bundle, bundle, policy=bundle["policy"]).ok
