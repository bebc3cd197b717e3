"""A transcript in words: numbered, with the steps of protocols/README.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

Event = Mapping[str, Any]
MAX_NAMES = 6

WHAT: Mapping[str, str] = MappingProxyType(
    {
        "RoundOpen": "opens the round",
        "KeyOffer": "offers fresh keys",
        "KeyRoster": "fixes whose keys count",
        "GraphNonce": "opens its graph nonce",
        "GraphNonces": "publishes the opened nonces",
        "KeyDealing": "shows its part of the collective key and deals shares of it",
        "KeyDelivery": "passes on what was dealt of the key",
        "ShareBundle": "deals sealed shares of its mask secrets",
        "ShareDelivery": "passes sealed shares on",
        "UploadHash": "commits to its upload",
        "UploadSet": "fixes the committed uploads",
        "Upload": "uploads its protected update",
        "WrappedKey": "sends the key of its update, wrapped under the collective key",
        "SketchKey": "gives out the validator's key for sketches",
        "SketchEvaluationKeys": "gives out what sketches are multiplied with",
        "BeaconNonce": "opens its part of the beacon",
        "BeaconNonces": "publishes the beacon's nonces",
        "Sketch": "sends the encrypted sketch of its update",
        "ScoreRequest": "asks the validator to judge encrypted scores",
        "Verdict": "says whose updates are accepted",
        "SumSketch": "reports the sketch of the opened sum, boxed to the validator",
        "BindingRequest": "asks the validator to check the opened sum",
        "BindingResult": "says whether the opened sum is that of what was judged",
        "Cohort": "proposes whose uploads are summed",
        "CohortVote": "votes for the cohort",
        "CohortProof": "shows a quorum of votes",
        "Unmask": "reveals one share per dealer",
        "KeyRequest": "asks an active set of holders to open the key sum",
        "KeyOpening": "gives its part of the opened key sum, sealed for the clients",
        "Aggregate": "publishes the sum without its masks",
        "RoundAck": "acknowledges the new adapter",
        "RoundClose": "closes the round",
    }
)


def explain(transcript: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a transcript (as read by ``read_transcript``) for a person."""
    scenario = transcript["scenario"]
    yield f"Scenario {scenario['name']}: {scenario['title']}"
    if scenario.get("row"):
        yield f"Attack: {scenario['row']}"
    federation = scenario["federation"]
    yield (
        f"Suite {federation['suite']}, {federation['clients']} clients, "
        f"{federation['colluding']} may collude, {federation['dropouts']} may vanish; "
        f"seed {scenario['seed']}"
    )
    if federation.get("session", 1) > 1:
        yield f"Every round is a session of {federation['session']} steps, without noise"
    yield f"Malicious: {_names(scenario['malicious']) or 'nobody'}"
    for event in transcript["events"]:
        if event["event"] == "round":
            yield ""
            yield from _round(scenario, event)
            continue
        describe = _DESCRIBE.get(event["event"])
        if describe is not None:
            yield f"{event['n']:>5}  {describe(event)}"
    yield ""
    yield from _verdict(transcript["verdict"])


def _round(scenario: Mapping[str, Any], event: Event) -> Iterator[str]:
    makes = " makes a key" if event["kind"] == "keys" else ""
    yield f"Round {event['round']}{makes} with {_names(event['invited'])}"
    if not event["index"]:
        return
    for act in scenario["rounds"][event["index"] - 1]["acts"]:
        fields = ", ".join(f"{name} = {_value(v)}" for name, v in act.items() if name != "act")
        yield f"       act {act['act']}" + (f" ({fields})" if fields else "")


def _verdict(verdict: Mapping[str, Any]) -> Iterator[str]:
    lines = verdict["lines"]
    wrong = [line for line in lines if not line["ok"]]
    if verdict["ok"]:
        yield f"Verdict: as expected ({len(lines)} comparisons)"
        return
    yield f"Verdict: NOT as expected, {len(wrong)} of {len(lines)} comparisons fail"
    for line in wrong:
        place = f"round {line['round']}, " if line["round"] else ""
        found = f"expected {line['expected']!r}, found {line['found']!r}"
        yield f"       {place}{line['what']}: {found}"


def _sent(event: Event) -> str:
    kind = event["type"]
    extra = ""
    if kind == "Unmask":
        extra = (
            f" (seeds of {_names(event['seed_shares_of']) or 'nobody'}; mask keys of "
            f"{_names(event['key_shares_of']) or 'nobody'})"
        )
    of_session = f" ({event['session_step']})" if event.get("session_step") else ""
    return (
        f"step {event['step']:<3}{of_session} {event['from']} -> {_names(event['to'])}: {kind}, "
        f"{WHAT.get(kind, 'says something else')}{extra}"
    )


def _act(event: Event) -> str:
    became = [_became(view) for view in event["became"]]
    what = ", then ".join(became) if became else "nothing: it is lost"
    return (
        f"  !!     {event['act']}: {event['type']} from {event['from']} to "
        f"{_names(event['to'])} becomes {what}"
    )


def _became(view: Event) -> str:
    where = f" to {view['to']}" if "to" in view else ""
    if view.get("as_sent"):
        return f"itself{where}"
    parts = " and ".join(part.replace("body_hash", "body") for part in view.get("changed", ()))
    return f"a {view['type']} by {view['sender']} with another {parts}{where}"


def _refused(event: Event) -> str:
    about = f" {event['type']}" if "type" in event else ""
    return f"         {event['by']} refuses{about}: {event['error']}: {event['text']}"


_DESCRIBE: Mapping[str, Callable[[Event], str]] = MappingProxyType(
    {
        "sent": _sent,
        "act": _act,
        "refused": _refused,
        "journal": lambda e: f"         {e['by']} stores {e['record']!r} ({e['value'][:16]})",
        "note": lambda e: f"         note of {e['by']}: {e['text']}",
        "ended": lambda e: f"         {e['by']} ends the round as {e['outcome']} {e['reason']}",
        "finished": lambda e: (
            f"round    {e['outcome']}: accepted {_names(e['accepted']) or 'nobody'}; removed "
            f"{_names(e['removed']) or 'nobody'}; {e['reason'] or 'no remark'}"
        ),
        "deadline": lambda e: f"time     the deadline for {e['phase']} passes",
        "crashed": lambda e: f"  !!     {e['by']} dies before it sends {e['before']}",
        "left": lambda e: f"  !!     {e['by']} is gone before it sends {e['before']}",
        "lost": lambda e: f"  !!     {e['by']} dies; the round is lost",
        "restarted": lambda e: f"  !!     {e['by']} is back, with what its journal holds",
        "late": lambda e: f"  !!     the {e['what']} of {e['by']} waits for {e['until']}",
        "caught up": lambda e: f"         {e['by']} repeats round {e['missed']} and checks it",
        "cosigned": lambda e: f"step 15  {e['by']} cosigns the log at size {e['size']}",
    }
)


def _names(names: Sequence[str]) -> str:
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    return f"{names[0]} .. {names[-1]} ({len(names)})"


def _value(value: object) -> str:
    return _names([str(item) for item in value]) if isinstance(value, list) else str(value)
