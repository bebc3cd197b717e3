"""What the coordinator can see: uniform words without a trace of any update, and no secret text.

With 200,000 words a correlation of independent values has standard deviation 0.0022, so 0.01 is
four and a half of them; the suite `clear` shows that the same measurements do find an update.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.lanes import from_lanes, unpack_lanes
from fedfm_crypto.secret import Secret
from fedfm_protocols import messages
from fedfm_protocols.client_states import (
    Committed,
    Offered,
    Shared,
    Training,
    Uploaded,
    Voted,
)
from fedfm_protocols.coordinator_states import Finished, Unmasking, Uploading, Voting
from fedfm_protocols.effects import Received, Send
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import StepShares, Unmask, Upload
from tests.protocols.scripted import (
    Crash,
    RecordingSimulation,
    body_of,
    exact_simulation,
    forging,
    integers_of,
)

VALUES = 200_000
LANES = {32: 65536, 24: 4096}


@cache
def _run(suite: str, lane_bits: int) -> RecordingSimulation:
    quantiser = {"values": VALUES, "scale": LANES[lane_bits], "lane_bits": lane_bits}
    simulation = exact_simulation(5, suite=suite, quantiser=quantiser)
    assert simulation.run_round(1).outcome == "completed"
    return simulation


def _received(simulation: RecordingSimulation, lane_bits: int) -> dict[str, NDArray[np.uint32]]:
    """All word arrays that reach the coordinator, and the partial sums that it keeps."""
    words: dict[str, NDArray[np.uint32]] = {}
    for envelope in simulation.coordinator_received:
        if envelope.header.type == "Upload":
            name = f"upload of {envelope.header.sender}"
            words[name] = unpack_lanes(body_of(envelope, Upload).words, lane_bits)
    sums = {
        id(state.total): state.total
        for state, _ in simulation.coordinator_tape
        if isinstance(state, Uploading | Voting | Unmasking) and state.total is not None
    }
    assert len(sums) == len(simulation.clients)
    return words | {f"sum {number}": total for number, total in enumerate(sums.values())}


def _chi_square(words: NDArray[np.uint32], lane_bits: int) -> list[float]:
    """Per byte of the lane, over 256 values: mean 255, standard deviation 22.6 if uniform."""
    found = []
    for shift in range(0, lane_bits, 8):
        counts = np.bincount((words >> np.uint32(shift)) & np.uint32(255), minlength=256)
        expected = words.size / 256
        found.append(float(((counts - expected) ** 2 / expected).sum()))
    return found


def _correlation(words: NDArray[np.uint32], update: NDArray[np.int64], lane_bits: int) -> float:
    return float(abs(np.corrcoef(from_lanes(words, lane_bits), update)[0, 1]))


@pytest.mark.parametrize("lane_bits", [24, 32])
def test_masked_words_are_uniform(lane_bits: int) -> None:
    for what, words in _received(_run("masked", lane_bits), lane_bits).items():
        for chi_square in _chi_square(words, lane_bits):
            assert 150 < chi_square < 370, what


@pytest.mark.parametrize("lane_bits", [24, 32])
def test_masked_words_correlate_with_no_update(lane_bits: int) -> None:
    simulation = _run("masked", lane_bits)
    section = simulation.federation.charter.quantiser
    for what, words in _received(simulation, lane_bits).items():
        for name in simulation.clients:
            update = integers_of(section, name, 1)
            assert _correlation(words, update, lane_bits) < 0.01, (what, name)


def test_both_measurements_find_an_update_that_is_not_masked() -> None:
    simulation = _run("clear", 32)
    words = _received(simulation, 32)["upload of client-01"]
    update = integers_of(simulation.federation.charter.quantiser, "client-01", 1)
    assert _correlation(words, update, 32) > 0.999
    assert max(_chi_square(words, 32)) > 1000


def test_masked_uploads_of_two_clients_do_not_correlate_with_each_other() -> None:
    words = [w for n, w in _received(_run("masked", 32), 32).items() if n.startswith("upload")]
    assert len(words) == 5
    for i, first in enumerate(words):
        for second in words[:i]:
            assert _correlation(first, from_lanes(second, 32), 32) < 0.01


def test_nothing_else_that_reaches_the_coordinator_is_as_large_as_an_update() -> None:
    simulation = _run("masked", 32)
    for envelope in simulation.coordinator_received:
        if envelope.header.type != "Upload":
            assert len(envelope.body) < 4096, envelope.header.type
        else:
            assert len(envelope.body) == 4 + 4 * VALUES  # 4.0 bytes a value


def test_the_same_update_never_looks_the_same_twice() -> None:
    simulation = exact_simulation(5)
    simulation.updates = lambda name, number, step: np.zeros(50)
    simulation.run_round(1)
    simulation.run_round(2)
    bodies = [e.body for e in simulation.coordinator_received if e.header.type == "Upload"]
    assert len(bodies) == len(set(bodies)) == 10


# ---------------------------------------------------------------- nothing secret is printed


def _bytes_in(value: object) -> list[bytes]:
    """All secret byte strings in a state's secrets or held shares."""
    match value:
        case Secret():
            return [value.reveal()]
        case RoundSecrets():
            found = [value.share_key.secret.reveal(), value.nonce.reveal()]
            for step in value.steps:
                found += [step.mask_key.secret.reveal(), step.seed.reveal()]
            return found
        case StepShares():
            return [value.seed, value.seed_salt, value.key, value.key_salt]
        case Unmask():
            return [x for s in (*value.seed_shares, *value.key_shares) for x in (s.value, s.salt)]
    raise TypeError(type(value).__name__)


def _secrets(simulation: RecordingSimulation) -> list[bytes]:
    found: list[bytes] = []
    for _, state, _ in simulation.client_tape:
        if isinstance(state, Offered | Shared):
            found += _bytes_in(state.secrets)
        if isinstance(state, Training | Committed | Uploaded | Voted):
            for contents in state.held.values():
                found += _bytes_in(contents)
        if isinstance(state, Committed):
            found.append(state.upload.upload[4:20])
    for coordinator_state, _ in simulation.coordinator_tape:
        for reveal in getattr(coordinator_state, "reveals", {}).values():
            found += _bytes_in(reveal)
    found += [c.context.site.key.secret.reveal() for c in simulation.clients.values()]
    found.append(simulation.coordinator.site.key.secret.reveal())
    return list(dict.fromkeys(found))


def _spellings(secret: bytes) -> tuple[str, ...]:
    number = int.from_bytes(secret, "big")
    return (secret.hex(), repr(secret)[2:-1], str(number), f"{number:x}")


def _texts(simulation: RecordingSimulation) -> dict[str, str]:
    """Everything that a log could hold of a run: states, events, effects, errors, notes."""
    pieces: list[tuple[str, Any]] = []
    for name, state, event in simulation.client_tape:
        pieces += [(f"{name} {type(state).__name__}", state), (f"{name} event", event)]
        if isinstance(event, Received):
            pieces.append((event.envelope.header.type, _decoded(event)))
    for phase, event in simulation.coordinator_tape:
        pieces += [(type(phase).__name__, phase), ("coordinator event", event)]
        if isinstance(event, Received):
            pieces.append((event.envelope.header.type, _decoded(event)))
    for name, client in simulation.clients.items():
        problems: list[BaseException] = [*client.refused, *client.violations]
        while problems:
            error = problems.pop()
            pieces += [(f"error at {name}", error), (f"error at {name}", str(error))]
            problems += [e for e in (error.__cause__, error.__context__) if e is not None]
        pieces += [(f"note at {name}", note) for note in client.notes]
        pieces += [(f"journal of {name}", record) for record in client.journal]
        pieces += [(f"effect of {name}", Send("coordinator", e)) for e in client.sent]
        pieces.append((f"context of {name}", client.context))
    pieces += [("coordinator error", str(error)) for error in simulation.refused]
    pieces += [("finished", simulation.state), ("context", simulation.coordinator)]
    return {f"{what} {i}": repr(piece) for i, (what, piece) in enumerate(pieces)}


def _decoded(event: Received) -> object:
    return body_of(event.envelope, getattr(messages, event.envelope.header.type))


@pytest.mark.parametrize("troubled", [False, True])
def test_no_secret_in_any_state_event_effect_error_or_note(troubled: bool) -> None:
    simulation = exact_simulation(3 if not troubled else 5)
    if troubled:  # errors and notes are where secrets slip out
        forger = forging(
            simulation,
            "client-02",
            "Unmask",
            lambda r: Unmask(r.seed_shares[::-1], r.key_shares),
        )
        crash = Crash({"client-05": "Upload"})
        simulation.intercept = lambda s, r, e: [
            d for passed in crash(s, r, e) for d in forger(s, passed[0], passed[1])
        ]
    finished = simulation.run_round(1)
    assert isinstance(finished, Finished)
    assert (finished.outcome == "completed") is not troubled
    secrets = _secrets(simulation)
    assert len(secrets) > 30
    texts = _texts(simulation)
    for where, text in texts.items():
        for secret in secrets:
            for spelling in _spellings(secret):
                assert spelling not in text, where


def test_the_search_for_secrets_finds_one() -> None:
    simulation = exact_simulation(3)
    simulation.run_round(1)
    shared = next(s for _, s, _ in simulation.client_tape if isinstance(s, Shared))
    secret = shared.secrets.steps[0].seed.reveal()
    assert secret in _secrets(simulation)
    assert any(spelling in repr({"seed": secret}) for spelling in _spellings(secret))
