"""The checks of rounds that write marks, numbered W1, W2, ..."""

from __future__ import annotations

from tests.adversarial.mutation import Mutation, off, swap

MARKS: tuple[Mutation, ...] = (
    swap(
        "W1",
        "client_opening.py",
        "lambda: memory.completed == agreed,",
        "lambda: True,",
        "marks come once, after the last round of training",
        "marks-honest",
    ),
    swap(
        "W2",
        "client_opening.py",
        "(federation.marked and opened.kind == WATERMARK)",
        "opened.kind == WATERMARK",
        "no round of marks where the charter has none",
        "marks-without-owners",
    ),
    off("W3", "marks.py", "strangers", "only clients own marks", "marks-of-nobody"),
    swap(
        "W4",
        "marks.py",
        "        self.quantiser(lane_bits).check_capacity(len(clients))\n",
        "",
        "a sum of marks cannot wrap",
        "marks-overflow",
    ),
    swap(
        "W5",
        "validator_requests.py",
        "    if kind != WATERMARK or section is None:\n",
        "    if True:\n",
        "marks are judged by their norms",
        "robust-marks",
    ),
)
