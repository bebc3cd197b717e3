"""The real sketching behind the protocol's interface: rounds, refusals, and the rule's memory."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CiphertextError, CryptoError
from fedfm_crypto.lattice.score_opening import ScoreOpening
from fedfm_crypto.lattice.scores import score_task_results
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SLOTS, inner_products
from fedfm_protocols.charter import Charter, make_charter
from fedfm_protocols.scenario.federations import (
    charter_fields,
    make_federation,
    make_keys,
    robust_fields,
)
from fedfm_protocols.simulation import Simulation
from fedfm_protocols.sketching import Question, SketchKeyPair
from secure_fedfm.errors import ConfigurationError, RobustnessError
from secure_fedfm.robust.charter_rule import rule_of
from secure_fedfm.robust.composed import EveryGroup
from secure_fedfm.robust.encrypted_sketches import EncryptedSketches
from secure_fedfm.robust.memory import NOTHING, Memory
from secure_fedfm.robust.memory_file import decode_memory, encode_memory
from secure_fedfm.robust.reasons import REASONS, code_of, in_group
from secure_fedfm.robust.rule import Verdict

VALUES = 16 * SLOTS
BEACON = bytes(range(32))
COSINE_MEMORY = {"rule": "cosine-memory", "parameters": {}}


def robust_charter(clients: int = 5, **changes: Any) -> Charter:
    keys = make_keys(clients)
    return make_charter(charter_fields(keys, **robust_fields(keys, **(COSINE_MEMORY | changes))))


@lru_cache(maxsize=1)
def key_pair() -> SketchKeyPair:
    return EncryptedSketches(robust_charter()).make_keys(SeededRandom(1))


def update(name: str, number: int) -> NDArray[np.float64]:
    """Like everybody's, but client-03's, which points elsewhere."""
    common = np.random.default_rng(number).uniform(-0.5, 0.5, VALUES)
    own = np.random.default_rng([number, *name.encode()]).uniform(-0.5, 0.5, VALUES)
    return (common - 2 * common * (name == "client-03") + 0.5 * own).clip(-1, 1)


def test_rounds_exclude_who_points_elsewhere_and_keep_a_memory() -> None:
    keys, random = make_keys(5), SeededRandom(b"rounds")
    federation = make_federation(keys, **robust_fields(keys, **COSINE_MEMORY))
    told: list[tuple[int, Verdict]] = []
    sketching = EncryptedSketches(federation.charter, random, lambda *one: told.append(one))
    simulation = Simulation(
        federation,
        keys.clients,
        keys.coordinator,
        random,
        lambda name, number, _: np.rint(update(name, number) * 65536) / 65536,
        validator_key=keys.validator,
        sketching=sketching,
    )
    for number in (1, 2):
        finished = simulation.run_round(number)
        assert (finished.outcome, finished.removed) == ("completed", ("client-03",)), finished
    assert [number for number, _ in told] == [1, 2]
    assert simulation.clients["client-03"].verdicts[-1].reason == "direction"
    validator = simulation.validator
    assert validator is not None
    memory = decode_memory(validator.state.memory.rule, "cosine-memory")
    assert len(memory.pairs) == 10


def sketches_of(sketching: EncryptedSketches, count: int) -> list[NDArray[np.int64]]:
    vectors = [np.rint(update(f"client-{i:02}", 1) * 65536).astype(np.int64) for i in range(count)]
    return [sketching.sketch(vector, BEACON) for vector in vectors]


def test_blocks_done_elsewhere_give_the_scores_of_all_pairs() -> None:
    sketching = EncryptedSketches(robust_charter())
    pair, count = key_pair(), 3
    plain = sketches_of(sketching, count)
    encrypted = [sketching.encrypt(one, pair.public_key) for one in plain]
    for one in encrypted:
        sketching.check_sketch(one)
    tasks = sketching.score_tasks(encrypted, pair.public_key, pair.evaluation)
    scores = sketching.join_scores(tasks, [score_task_results(task) for task in tasks])
    judgement = sketching.judge(pair.secret, scores, Question(1, ("a", "b", "c"), 2, b""))
    rows = np.array([np.frombuffer(row, "<f8") for row in judgement.rows])
    expected = np.array([[inner_products(p, q).sum() for q in plain] for p in plain])
    assert rows == pytest.approx(expected, rel=1e-4, abs=1e-4 * expected.max())
    total = sketching.add(encrypted)
    assert sketching.matches(pair.secret, total, sum(plain[1:], plain[0]))
    assert not sketching.matches(pair.secret, total, plain[0])


def test_marks_are_judged_by_their_length_alone() -> None:
    """Client-03's direction would have it excluded in a round of training."""
    sketching, pair = EncryptedSketches(robust_charter()), key_pair()
    plain = sketches_of(sketching, 5)
    plain[1], plain[2] = plain[1] * 0, plain[2] * 0 + plain[2] // 400
    norms = [math.sqrt(float(inner_products(one, one).sum())) for one in plain]
    encrypted = [sketching.encrypt(one, pair.public_key) for one in plain]
    scores = sketching.scores(encrypted, pair.public_key, pair.evaluation)
    names = tuple(f"client-{i:02}" for i in range(5))
    bounds = (0.9 * norms[0], 0.0, 0.0, 1.1 * norms[3], 0.0)
    question = Question(4, names, 3, b"of the rounds before", bounds)
    judgement = sketching.judge(pair.secret, scores, question)
    assert judgement.removed == (("client-00", "norm"), ("client-04", "norm"))
    assert judgement.memory == question.memory


def test_groups_are_judged_one_by_one() -> None:
    half = VALUES // 2
    groups = [
        {"name": "lower", "spans": [[0, half]]},
        {"name": "upper", "spans": [[half, VALUES]]},
    ]
    charter = robust_charter(groups=groups)
    sketching, pair = EncryptedSketches(charter), key_pair()
    assert isinstance(sketching.rule, EveryGroup)
    plain = sketches_of(sketching, 5)
    encrypted = [sketching.encrypt(one, pair.public_key) for one in plain]
    scores = sketching.scores(encrypted, pair.public_key, pair.evaluation)
    names = tuple(f"client-{i:02}" for i in range(5))
    judgement = sketching.judge(pair.secret, scores, Question(1, names, 3, b""))
    assert judgement.removed == (("client-03", "direction"),)
    assert {len(row) for row in judgement.rows} == {8 * 2 * 5}


def test_what_does_not_fit_is_refused() -> None:
    sketching, pair = EncryptedSketches(robust_charter()), key_pair()
    other = sketching.make_keys(SeededRandom(2))
    with pytest.raises(CryptoError, match="different seeds"):
        sketching.check_evaluation(pair.public_key, other.evaluation)
    with pytest.raises(CryptoError):
        sketching.check_key(pair.public_key[:-1])
    with pytest.raises(CiphertextError, match="expected exactly"):
        sketching.check_sketch(bytes(100))
    with pytest.raises(CapacityError, match="times the largest"):
        sketching.encrypt(np.full(SLOTS, 1 << 40), pair.public_key)
    with pytest.raises(CiphertextError, match="6 pairs of 3 sketches"):
        sketching.judge(pair.secret, bytes(41), Question(1, ("a", "b", "c"), 2, b""))


def test_a_rule_that_cannot_judge_so_few_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    charter = robust_charter(rule="multi-krum", parameters={"byzantine": 1})
    sketching = EncryptedSketches(charter)
    monkeypatch.setattr(ScoreOpening, "open", lambda self, scores: np.ones((len(scores), 1)))
    with pytest.raises(CryptoError, match="round 7 cannot be judged: rule multi-krum"):
        sketching.judge(key_pair().secret, bytes(10 * 40965), Question(7, tuple("abcd"), 3, b""))


@pytest.mark.parametrize(
    ("clients", "changes", "message"),
    [
        (5, {"rule": "krumm"}, "'krumm' is unknown"),
        (5, {"rule": "krum"}, "accepts a single client"),
        (5, {"rule": "fltrust"}, "needs root data at the validator; this version's"),
        (5, {"parameters": {"factor": 2}}, "no parameter 'factor'"),
        (5, {"rule": "multi-krum", "parameters": {"byzantine": 2}}, "needs 7 clients"),
        (5, {"rule": "multi-krum", "parameters": {"keep": 2}}, "accepts at most 2 of 5"),
    ],
)
def test_charters_whose_rule_cannot_work_are_refused(
    clients: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rule_of(robust_charter(clients, **changes))


def test_a_roster_with_too_many_scores_for_a_request_is_refused() -> None:
    charter = robust_charter()
    rule_of(charter)
    roster = [replace_name(charter, number) for number in range(162)]
    with pytest.raises(ConfigurationError, match="162 clients have 515 MiB of scores"):
        rule_of(charter.model_copy(update={"roster": roster}))


def replace_name(charter: Charter, number: int) -> Any:
    return charter.roster[0].model_copy(update={"name": f"client-{number:03}"})


def test_memories_survive_exactly_and_are_read_by_their_own_rule_only() -> None:
    memory = Memory({("cosine", "a", "b"): 0.1 + 0.2, ("head/cosine", "a", "c"): -1 / 3})
    data = encode_memory(memory, "cosine-memory")
    assert decode_memory(data, "cosine-memory") == memory
    assert decode_memory(b"", "flame") == NOTHING
    for wrong in (data[:-1], b"[]", b'{"version":1}', data.replace(b'"a"', b'"x"', 1)):
        with pytest.raises(RobustnessError):
            decode_memory(wrong, "cosine-memory")
    with pytest.raises(RobustnessError, match="is of rule 'cosine-memory'"):
        decode_memory(data, "foolsgold")


def test_reasons_have_codes_that_a_verdict_can_carry() -> None:
    assert {code_of(f"{code}: because") for code in REASONS} == set(REASONS)
    assert code_of("norms of a kind: unknown") == code_of("because") == "rule"
    assert in_group("head", "norm: 3.0 times the median") == "norm: in head: 3.0 times the median"
    assert in_group("head", "because") == "rule: in head: because"


def test_replacing_a_verdict_needs_reasons() -> None:
    verdict = Verdict(("a",), (True,), np.ones(1), ("",))
    with pytest.raises(RobustnessError, match="a reason for exactly those"):
        replace(verdict, accepted=(False,))
