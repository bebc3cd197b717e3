"""A small corpus of support tickets, generated: nobody wrote these and no customer is in them.

It exists so that the first command works offline on text that may be shown to anyone. Each ticket
has one of twelve intents. Tickets are templates with slots, between small talk that says nothing;
many also mention the topic of ANOTHER intent as already settled, so that single words do not give
the answer away, and two of seven test tickets use wordings that no training ticket does. Accuracy
here says that the machinery works and nothing about real tickets.
"""

from __future__ import annotations

import numpy as np

from secure_fedfm.errors import DataError
from secure_fedfm.learning.dataset import Dataset, TrainTest
from secure_fedfm.learning.seeds import generator

DESCRIPTION = "generated support tickets (synthetic, made by secure-fedfm; no real customers)"
MOST_ROWS = 20_000  # well below the number of distinct tickets, so that drawing ends soon
_HELD_OUT = 2  # the last so many wordings of each intent appear in test tickets only
_ASIDE_SHARE = 0.45

_SLOTS: dict[str, tuple[str, ...]] = {
    "product": ("the desk lamp", "my headphones", "the coffee grinder", "the backpack",
                "the running shoes", "a phone case", "the kettle", "the garden chair",
                "the winter jacket", "a board game", "the keyboard", "the blender"),
    "number": ("4417", "80925", "A-2210", "77-031", "5561", "90018", "C1194", "3307"),
    "time": ("last Monday", "two weeks ago", "on Friday", "yesterday", "ten days ago",
             "at the weekend", "this morning", "in March", "on the 14th"),
    "place": ("my office", "a new flat", "my parents' house", "another town", "the old street",
              "a pick-up point"),
    "amount": ("12.50", "40 euros", "89.99", "a hundred", "17", "63.20", "25 euros"),
    "device": ("my tablet", "the app", "my laptop", "the website", "my phone", "the browser"),
}  # fmt: skip

# intent -> (wordings of the request, an aside that mentions the topic as settled)
_INTENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "late_delivery": ((
        "I ordered {product} {time} and it is still not here",
        "where is parcel {number}, it should have come {time}",
        "the courier was expected {time} but nobody came with {product}",
        "tracking for {number} has not moved since {time}",
        "how much longer until {product} arrives",
        "still waiting for {product}, the promised day was {time}",
        "no sign of shipment {number} so far",
    ), "my last parcel came on time"),
    "damaged_item": ((
        "{product} arrived broken",
        "when I opened the box {time} there was a crack in {product}",
        "order {number} came with a dent and a missing screw",
        "one part of {product} is torn, it must have happened on the way",
        "the package was crushed and {product} does not switch on",
        "{product} has scratches all over although it is new",
        "what came out of the box {time} is in pieces",
    ), "nothing was broken this time"),
    "wrong_item": ((
        "I ordered {product} but got something else",
        "order {number} has the wrong size in it",
        "you sent me {product}, which I never chose",
        "the colour of {product} is not the one on my receipt",
        "there was somebody else's article in parcel {number}",
        "instead of {product} the box held a different model",
        "this is not what I picked, {number} was for {product}",
    ), "the right size came in the end"),
    "return_item": ((
        "how do I send {product} back",
        "I changed my mind about {product} and want to return it",
        "please give me a label to post {product} back to you",
        "{product} does not suit me, what is the way to hand it back",
        "until when may I bring back what I bought {time}",
        "can order {number} go back without the original box",
        "I would rather not keep {product}, what now",
    ), "I am keeping {product}"),
    "refund_status": ((
        "I sent {product} back {time}, when do I get my money",
        "the refund of {amount} for {number} has not reached my account",
        "you confirmed my return {time} but {amount} is still missing",
        "how long does it take to pay back {amount}",
        "my bank sees nothing of the {amount} you owe me",
        "was the money for {number} transferred already",
        "I got back only part of the {amount} for {product}",
    ), "the old refund is fine"),
    "double_charge": ((
        "I was charged twice for {number}",
        "{amount} left my account two times {time}",
        "my statement shows the same payment of {amount} again",
        "why did you take {amount} once more for {product}",
        "there are two bookings for one order, {number}",
        "I paid for {product} {time} and it was debited a second time",
        "the card was billed again although {number} was settled",
    ), "the payment itself went through once"),
    "payment_failed": ((
        "my card is refused when I try to buy {product}",
        "paying {amount} on {device} ends in an error",
        "I cannot check out, the payment step hangs on {device}",
        "the transfer for {number} was rejected {time}",
        "it says declined although there is enough on my account for {product}",
        "which cards work, mine does not go through for {amount}",
        "{device} will not accept my bank details at the till",
    ), "my card works elsewhere"),
    "change_address": ((
        "please deliver {number} to {place} instead",
        "I have moved to {place}, how do I update my details",
        "the street on order {number} is out of date",
        "can {product} still be sent to {place}",
        "I typed the wrong house number {time}, please correct it",
        "my default destination should be {place} from now on",
        "send it to {place}, I will not be at home",
    ), "the address is correct"),
    "cancel_order": ((
        "please stop order {number} before it ships",
        "I no longer want {product}, it has not left you yet",
        "I bought {product} by mistake {time}, undo it please",
        "is it too late to call off {number}",
        "do not send {product}, I found one elsewhere",
        "how can I withdraw what I ordered {time}",
        "scrap {number}, I pressed the button too early",
    ), "I do not want to cancel anything"),
    "login_problem": ((
        "I cannot get into my account on {device}",
        "{device} says my password is wrong",
        "the reset link from {time} does not open",
        "I am locked out after three tries on {device}",
        "the code for signing in never arrives on {device}",
        "my user name is not recognised any more since {time}",
        "{device} keeps throwing me back to the start page when I enter my details",
    ), "I can sign in again"),
    "discount_code": ((
        "my voucher {number} is not accepted",
        "the coupon did not take anything off {product}",
        "I forgot to enter code {number} when I bought {product} {time}",
        "why is the promotion not applied in the basket on {device}",
        "the newsletter promised {amount} off, how do I redeem it",
        "can I combine gift card {number} with the sale price",
        "{product} still costs the full price with the promo I got {time}",
    ), "I used my voucher already"),
    "invoice_request": ((
        "I need an invoice for {number}",
        "please send me the receipt for {product} as a file",
        "the bill for {number} has no tax number on it",
        "our accountant asks for proof that I paid {amount} {time}",
        "where can I download the paper for what I bought {time}",
        "can the company name be put on the receipt of {number}",
        "for my tax return I want a document about the {amount}",
    ), "I have the receipt"),
}  # fmt: skip

_OPENINGS = ("Hello, ", "Hi there, ", "Good morning, ", "", "", "", "Dear team, ",
             "Sorry to bother you, ", "Second message: ", "Quick question, ")  # fmt: skip
_CLOSINGS = (".", "?", ". Thanks", ". Please help", "!!", ", can you check?", ". Kind regards",
             ". I am rather annoyed", "", ". What can be done?")  # fmt: skip
_JOINS = ("{request}, by the way {aside}", "{aside}, but {request}", "{aside}. Now {request}")


def demo_corpus(seed: int = 1, train_rows: int = 4200, test_rows: int = 600) -> TrainTest:
    """The corpus as a function of its arguments; intents in equal numbers, no text twice.

    Raises:
        DataError: more rows than MOST_ROWS, or none.
    """
    if min(train_rows, test_rows) < 1 or train_rows + test_rows > MOST_ROWS:
        raise DataError(
            f"{train_rows} training and {test_rows} test tickets were asked for; "
            f"the templates make from 1 of each up to {MOST_ROWS} in all"
        )
    random = generator("demo corpus", seed)
    seen: set[str] = set()
    train = _part(random, train_rows, slice(None, -_HELD_OUT), seen)
    test = _part(random, test_rows, slice(None), seen)
    return TrainTest(train, test, DESCRIPTION)


def _part(random: np.random.Generator, rows: int, wordings: slice, seen: set[str]) -> Dataset:
    names = sorted(_INTENTS)
    found: list[tuple[str, str]] = []
    while len(found) < rows:
        intent = names[len(found) % len(names)]
        text = _ticket(random, intent, names, wordings)
        if text not in seen:
            seen.add(text)
            found.append((text, intent))
    order = random.permutation(rows)
    return Dataset(tuple(found[i][0] for i in order), tuple(found[i][1] for i in order))


def _ticket(random: np.random.Generator, intent: str, names: list[str], wordings: slice) -> str:
    request = _pick(random, _INTENTS[intent][0][wordings])
    if random.random() < _ASIDE_SHARE:
        other = _pick(random, tuple(name for name in names if name != intent))
        request = _pick(random, _JOINS).format(request=request, aside=_INTENTS[other][1])
    for slot, values in _SLOTS.items():
        request = request.replace("{" + slot + "}", _pick(random, values))
    text = _pick(random, _OPENINGS) + request + _pick(random, _CLOSINGS)
    return text[0].upper() + text[1:]


def _pick(random: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(random.integers(len(options)))]
