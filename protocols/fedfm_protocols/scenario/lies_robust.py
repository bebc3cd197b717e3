"""Steps 4c to 7 of robust rounds: clients that lie about their sketches, and a coordinator that
lies about nonces, sketches and scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, SignedHeader
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.coordinator_states import Judging
from fedfm_protocols.messages import RoundOpen, body_hash
from fedfm_protocols.robust_messages import (
    BeaconNonce,
    BeaconNonces,
    ScoreRequest,
    Sketch,
    SketchEvaluationKeys,
    SketchKey,
    Verdict,
)
from fedfm_protocols.scenario.actors import body_of, member, resigned, swapped
from fedfm_protocols.scenario.federations import VALIDATOR
from fedfm_protocols.scenario.lies import Moment, Signed, identity_of_opening, lie

_SALT = 16  # bytes of an open sketch before its integers

# ---------------------------------------------------------------- sketch keys


@lie("second-sketch-key", "SketchKey", told_by=VALIDATOR)
def _second_sketch_key(moment: Moment, key: SketchKey) -> SketchKey:
    """The validator announces a key with another box key than it keeps."""
    return replace(key, box_key=AgreementKey.generate(SeededRandom(b"another box")).public)


@lie("pass-on-another-sketch-key", "SketchKey")
def _pass_on_another(moment: Moment, key: SketchKey) -> Envelope:
    """The coordinator passes on another key of the epoch, which the validator signed too."""
    actor = moment.stage.actor(VALIDATOR)
    return actor.forge(moment.envelope, replace(key, public_key=key.public_key + b"!"))


@lie("forge-sketch-key", "SketchKey")
def _forge_sketch_key(moment: Moment, key: SketchKey) -> SketchKey:
    """The coordinator makes the sketch key itself, and signs for the validator."""
    return replace(key, public_key=key.public_key + b"!")


@lie("odd-sketch-key", "SketchKey", needs=("damage",))
def _odd_sketch_key(moment: Moment, key: SketchKey) -> Envelope:
    """The coordinator passes on a key that the validator signed and that is none: `damage` is
    `public`, `box` (no key of the one kind or the other), `epoch` (an older one), `number` (its
    sequence number is another) or `round` (signed for another context)."""
    actor, envelope = moment.stage.actor(VALIDATOR), moment.envelope
    match moment.form.damage:
        case "public":
            return actor.forge(envelope, replace(key, public_key=b"no key"))
        case "box":
            return actor.forge(envelope, replace(key, box_key=bytes(32)))
        case "epoch":
            return actor.forge(envelope, replace(key, epoch=0), sequence=0)
        case "number":
            return actor.forge(envelope, sequence=99)
    return actor.forge(envelope, context=NO_HASH)


@lie("other-evaluation-keys", "SketchEvaluationKeys", told_by=VALIDATOR)
def _other_evaluation(moment: Moment, keys: SketchEvaluationKeys) -> SketchEvaluationKeys:
    """The keys to multiply with are not those that the sketch key names."""
    return replace(keys, keys=keys.keys + b"!")


# ---------------------------------------------------------------- clients


@lie("other-beacon-nonce", "BeaconNonce", needs=("by",))
def _other_nonce(moment: Moment, nonce: BeaconNonce) -> BeaconNonce:
    """`by` opens another nonce than it committed to: it would choose the beacon."""
    return BeaconNonce(b"\x42" * 32)


@lie("beacon-nonce-elsewhere", "BeaconNonce", needs=("by",))
def _nonce_elsewhere(moment: Moment, nonce: BeaconNonce) -> Signed:
    """`by` opens its nonce for another upload set."""
    return Signed(nonce, {"refers_to": NO_HASH})


def _open(sketch: Sketch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.frombuffer(sketch.ciphertext[_SALT:], "<i8").astype(np.int64)


def _closed(sketch: Sketch, values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Sketch:
    return Sketch(sketch.ciphertext[:_SALT] + values.astype("<i8").tobytes())


@lie("sketch-another-update", "Sketch", needs=("by",))
def _another_update(moment: Moment, sketch: Sketch) -> Sketch:
    """`by` sketches half of its update: what was uploaded is twice as large."""
    return _closed(sketch, _open(sketch) // 2)


@lie("shift-sketch", "Sketch", needs=("by", "count"), may=("damage",))
def _shift(moment: Moment, sketch: Sketch) -> Sketch:
    """`by` adds `count` to the first number of its sketch (with `damage` = `back` it takes it
    away): two of them can cancel."""
    values = _open(sketch)
    values[0] += -moment.count if moment.form.damage == "back" else moment.count
    return _closed(sketch, values)


@lie("short-sketch", "Sketch", needs=("by",))
def _short_sketch(moment: Moment, sketch: Sketch) -> Sketch:
    """`by` sends a ciphertext of another length."""
    return Sketch(sketch.ciphertext[:-1])


@lie("copy-sketch", "Sketch", needs=("by", "client"))
def _copy_sketch(moment: Moment, sketch: Sketch) -> Sketch:
    """`by` sends the ciphertext of `client` as its own."""
    other = moment.stage.last("Sketch", moment.client)
    return sketch if other is None else body_of(other, Sketch)


@lie("sketch-elsewhere", "Sketch", needs=("by",))
def _sketch_elsewhere(moment: Moment, sketch: Sketch) -> Signed:
    """`by` sketches under another beacon."""
    return Signed(sketch, {"refers_to": NO_HASH})


# ---------------------------------------------------------------- step 5, the coordinator


@lie("few-nonces", "BeaconNonces", needs=("count",))
def _few_nonces(moment: Moment, nonces: BeaconNonces) -> BeaconNonces:
    """Only `count` nonces are shown."""
    return BeaconNonces(nonces.nonces[: moment.count])


@lie("nonces-of-other-uploads", "BeaconNonces")
def _nonces_elsewhere(moment: Moment, nonces: BeaconNonces) -> Signed:
    """The nonces are said to be of another upload set."""
    return Signed(nonces, {"refers_to": NO_HASH})


@lie("another-nonce-in-set", "BeaconNonces", needs=("client",), signs_for=True)
def _another_in_set(moment: Moment, nonces: BeaconNonces) -> BeaconNonces:
    """An accomplice's nonce in the set is not the one that it committed to."""
    return BeaconNonces(moment.accomplice(nonces.nonces, BeaconNonce(b"\x42" * 32)))


@lie("elsewhere-nonce-in-set", "BeaconNonces", needs=("client",), signs_for=True)
def _elsewhere_in_set(moment: Moment, nonces: BeaconNonces) -> BeaconNonces:
    """An accomplice's nonce in the set was opened for another upload set."""
    return BeaconNonces(moment.accomplice(nonces.nonces, refers_to=NO_HASH))


@lie("forged-nonce-in-set", "BeaconNonces", needs=("client",))
def _forged_in_set(moment: Moment, nonces: BeaconNonces) -> BeaconNonces:
    """The coordinator opens the nonce of `client` itself."""
    place = member(nonces.nonces, moment.client)
    forged = resigned(moment.speaker, nonces.nonces[place], BeaconNonce(b"\x42" * 32))
    return BeaconNonces(swapped(nonces.nonces, place, forged))


# ---------------------------------------------------------------- step 7, the coordinator


def _place(request: ScoreRequest, name: str) -> int:
    return [signed.header.sender for signed in request.sketches].index(name)


def _with_sketch(request: ScoreRequest, place: int, signed: SignedHeader) -> ScoreRequest:
    others = (*request.sketches[:place], signed, *request.sketches[place + 1 :])
    return replace(request, sketches=others)


@lie("exchange-scores", "ScoreRequest", needs=("clients",))
def _exchange_scores(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The two `clients` are scored with each other's sketches, and the coordinator stands by it."""
    one, other = (_place(request, name) for name in moment.clients)
    size = len(request.sketches)
    gram = np.frombuffer(request.scores, "<f8").reshape(size, size).copy()
    order = list(range(size))
    order[one], order[other] = other, one
    false = replace(request, scores=gram[np.ix_(order, order)].tobytes())
    if isinstance(moment.stage.state, Judging):
        moment.stage.state = replace(moment.stage.state, request_hash=body_hash(false))
    return false


@lie("scores-of-nothing", "ScoreRequest")
def _no_scores(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The scores are no scores."""
    return replace(request, scores=request.scores[:-1])


@lie("exchange-sketches", "ScoreRequest", needs=("clients",))
def _exchange_sketches(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The two `clients` are said to have sent each other's sketches, over their signatures."""
    one, other = (_place(request, name) for name in moment.clients)
    first, second = request.sketches[one], request.sketches[other]
    swapped_first = replace(first, header=replace(first.header, body_hash=second.header.body_hash))
    swapped_second = replace(
        second, header=replace(second.header, body_hash=first.header.body_hash)
    )
    return _with_sketch(_with_sketch(request, one, swapped_first), other, swapped_second)


@lie("old-sketch", "ScoreRequest", needs=("client",))
def _old_sketch(moment: Moment, request: ScoreRequest) -> ScoreRequest | None:
    """The sketch of `client` is the one that it signed in the first round."""
    for index, sender, _, envelope in moment.stage.earlier:
        if index == 1 and (sender, envelope.header.type) == (moment.client, "Sketch"):
            return _with_sketch(request, _place(request, moment.client), envelope.signed_header)
    return None


def _signed_again(moment: Moment, request: ScoreRequest, **header: object) -> ScoreRequest:
    place = _place(request, moment.client)
    changed = replace(request.sketches[place].header, **header)  # type: ignore[arg-type]
    key = moment.stage.actor(moment.client).key
    again = SignedHeader(changed, key.sign(Label.ENVELOPE, encode(changed)))
    return _with_sketch(request, place, again)


@lie("sketch-of-other-beacon", "ScoreRequest", needs=("client",), signs_for=True)
def _other_beacon(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """An accomplice's sketch is under another beacon."""
    return _signed_again(moment, request, refers_to=NO_HASH)


@lie("no-sketch", "ScoreRequest", needs=("client",), signs_for=True)
def _no_sketch(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """What an accomplice signed is no sketch."""
    return _signed_again(moment, request, type="Upload")


@lie("same-sketch-twice", "ScoreRequest", needs=("client",), signs_for=True)
def _same_sketch(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """An accomplice signed the sketch of the first client as its own."""
    return _signed_again(moment, request, body_hash=request.sketches[0].header.body_hash)


@lie("sketch-listed-twice", "ScoreRequest")
def _listed_twice(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The last client is listed twice."""
    return replace(request, sketches=(*request.sketches, request.sketches[-1]))


@lie("few-sketches", "ScoreRequest", needs=("count",))
def _few_sketches(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """Only `count` sketches are shown."""
    return replace(request, sketches=request.sketches[: moment.count])


@lie("sketch-without-nonce", "ScoreRequest", needs=("client",))
def _without_nonce(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """`client`, whose sketch is shown, opened no nonce."""
    nonces = request.nonces.nonces
    place = member(nonces, moment.client)
    return replace(request, nonces=BeaconNonces((*nonces[:place], *nonces[place + 1 :])))


@lie("request-of-other-uploads", "ScoreRequest")
def _request_elsewhere(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The request names another upload set than the nonces."""
    return replace(request, upload_set=NO_HASH)


@lie("request-of-other-keys", "ScoreRequest")
def _request_of_other_keys(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The request names another roster of keys than its context."""
    return replace(request, roster_hash=NO_HASH)


@lie("request-of-other-round", "ScoreRequest", needs=("damage",))
def _request_of_other_round(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """The opening in the request is not this round's: `damage` is `signed` by the coordinator for
    another context, `settings` (of another configuration), `unsigned`, `bent` or `stranger`."""
    opened = Envelope.decode(request.opened)
    match moment.form.damage:
        case "bent":
            return replace(request, opened=request.opened[:-1])
        case "unsigned":
            false = replace(opened, signature=opened.signature[:-1] + b"\x00")
        case "stranger":
            false = moment.speaker.forge(opened, sender="client-01")
        case "settings":
            body = replace(body_of(opened, RoundOpen), config_hash=NO_HASH)
            context = identity_of_opening(moment.stage, body).context0()
            false = moment.speaker.forge(opened, body, context=context)
        case _:
            false = moment.speaker.forge(opened, context=NO_HASH)
    return replace(request, opened=false.encode())


@lie("request-of-second-step", "ScoreRequest")
def _second_step(moment: Moment, request: ScoreRequest) -> Signed:
    """The request is of a step that the round does not have."""
    return Signed(request, {"step": 1})


@lie("second-request", "ScoreRequest")
def _second_request(moment: Moment, request: ScoreRequest) -> ScoreRequest:
    """Another request to judge the same round, without the last sketch."""
    return replace(request, sketches=request.sketches[:-1])


@lie("bend-verdict", "Verdict")
def _bend_verdict(moment: Moment, verdict: Verdict) -> Verdict:
    """The coordinator lets in whom the verdict removes, over the validator's signature."""
    return replace(
        verdict,
        accepted=tuple(sorted((*verdict.accepted, *verdict.removed_names))),
        removed=(),
    )


@lie("old-verdict", "Verdict")
def _old_verdict(moment: Moment, verdict: Verdict) -> Envelope | None:
    """The verdict of the first round is shown again."""
    for index, _, _, envelope in moment.stage.earlier:
        if index == 1 and envelope.header.type == "Verdict":
            return envelope
    return None
