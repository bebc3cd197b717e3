"""The real sketching behind the protocol's interface: rounds, refusals, and the rule's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CapacityError, CiphertextError, CryptoError
from fedfm_crypto.lattice.score_opening import ScoreOpening
from fedfm_crypto.lattice.scores import score_task_results
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SLOTS, inner_products
from fedfm_protocols.charter import Charter, make_charter
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import type_name
from fedfm_protocols.robust_messages import Sketch
from fedfm_protocols.scenario.federations import (
    Keys,
    charter_fields,
    make_federation,
    make_keys,
    robust_fields,
)
from fedfm_protocols.simulation import Delivery, Intercept, Simulation, deliver
from fedfm_protocols.sketching import Judgement, Question, SketchKeyPair
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


def simulated(
    federation: Federation,
    keys: Keys,
    random: SeededRandom,
    sketching: EncryptedSketches,
    intercept: Intercept = deliver,
) -> Simulation:
    return Simulation(
        federation,
        keys.clients,
        keys.coordinator,
        random,
        lambda name, number, _: np.rint(update(name, number) * 65536) / 65536,
        intercept=intercept,
        validator_key=keys.validator,
        sketching=sketching,
    )


def test_rounds_exclude_who_points_elsewhere_and_keep_a_memory() -> None:
    keys, random = make_keys(5), SeededRandom(b"rounds")
    federation = make_federation(keys, **robust_fields(keys, **COSINE_MEMORY))
    told: list[tuple[int, Verdict]] = []
    sketching = EncryptedSketches(federation.charter, random, lambda *one: told.append(one))
    simulation = simulated(federation, keys, random, sketching)
    for number in (1, 2):
        finished = simulation.run_round(number)
        assert (finished.outcome, finished.removed) == ("completed", ("client-03",)), finished
    assert [number for number, _ in told] == [1, 2]
    assert simulation.clients["client-03"].verdicts[-1].reason == "direction"
    validator = simulation.validator
    assert validator is not None
    memory = decode_memory(validator.state.memory.rule, "cosine-memory")
    assert len(memory.pairs) == 10 + 5  # cosines of pairs, lengths of clients


def test_rounds_compare_with_the_root_client_and_need_it() -> None:
    """Through the state machines; without its root the round ends with its reason."""
    keys, random = make_keys(5), SeededRandom(b"root")
    fields = robust_fields(keys, rule="fltrust", parameters={}, root="client-02")
    federation = make_federation(keys, **fields)
    told: list[Verdict] = []
    sketching = EncryptedSketches(federation.charter, random, lambda _, one: told.append(one))
    silent: set[str] = set()

    def intercept(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        lost = sender in silent and envelope.header.type == type_name(Sketch)
        return () if lost else deliver(sender, recipient, envelope)

    simulation = simulated(federation, keys, random, sketching, intercept)
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", ("client-03",)), finished
    assert simulation.clients["client-03"].verdicts[-1].reason == "root"
    assert "to the root client's update" in told[0].reasons[2]
    silent.add("client-02")
    finished = simulation.run_round(2)
    assert finished.outcome == "aborted"
    assert finished.reason.startswith("the validator accepts 0 updates, 4 are needed")
    assert "client-02 is not among the 4 clients" in told[1].reasons[0]
    silent.clear()
    assert simulation.run_round(3).outcome == "completed"


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


def judged(charter: Charter, names: tuple[str, ...], memory: bytes = b"") -> tuple[Judgement, str]:
    """What is answered about scores that a test has put in place, and the validator's reason."""
    told: list[Verdict] = []
    sketching = EncryptedSketches(charter, told=lambda _, verdict: told.append(verdict))
    size = 40965 * len(names) * (len(names) + 1) // 2
    judgement = sketching.judge(key_pair().secret, bytes(size), Question(7, names, 3, memory))
    return judgement, told[0].reasons[-1]


def test_a_rule_that_cannot_judge_so_few_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    charter = robust_charter(rule="multi-krum", parameters={"byzantine": 1})
    monkeypatch.setattr(ScoreOpening, "open", lambda self, scores: np.ones((len(scores), 1)))
    memory = encode_memory(Memory({("cosine", "a", "b"): 0.5}), "multi-krum")
    judgement, why = judged(charter, tuple("abcd"), memory)
    assert judgement.accepted == ()
    assert judgement.removed == tuple((name, "unjudged") for name in "abcd")
    assert judgement.memory == memory
    assert why.startswith("unjudged: rule multi-krum with these parameters needs 5 clients")
    with pytest.raises(CryptoError, match="is of rule 'multi-krum'"):
        judged(robust_charter(), tuple("abcd"), memory)


@pytest.mark.parametrize(
    ("names", "lengths", "message"),
    [
        (("client-02", "client-03", "client-04"), (1, 1, 1), "client-01 is not among the 3"),
        (("client-01", "client-02", "client-03"), (9, 1, 1), "excludes the root client"),
    ],
)
def test_without_a_sound_root_nobody_is_judged(
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    lengths: tuple[int, ...],
    message: str,
) -> None:
    grams = [[float(a * b)] for at, a in enumerate(lengths) for b in lengths[at:]]
    monkeypatch.setattr(ScoreOpening, "open", lambda self, scores: np.array(grams))
    judgement, why = judged(robust_charter(rule="fltrust", root="client-01"), names)
    assert {reason for _, reason in judgement.removed} == {"unjudged"}
    assert judgement.accepted == ()
    assert message in why


@pytest.mark.parametrize(
    ("clients", "changes", "message"),
    [
        (5, {"rule": "krumm"}, "'krumm' is unknown"),
        (5, {"rule": "krum"}, "accepts a single client"),
        (5, {"rule": "fltrust"}, "names none: give --robust-root CLIENT"),
        (5, {"root": "client-01"}, "would not look at a root"),
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
