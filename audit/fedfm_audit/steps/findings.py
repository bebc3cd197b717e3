"""Where a step writes down what it finds wrong, so that it can go on looking."""

from __future__ import annotations

from fedfm_audit.report import MAX_FAILURES, Failure


class Findings:
    """Failures of one step, in the order in which they were found.

    Reports hold at most ``MAX_FAILURES`` of them; ``count`` says how many there were.
    """

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self.count = 0

    def fail(self, place: str, reason: object) -> None:
        """Note a failure; ``reason`` is text or an exception."""
        self.count += 1
        if len(self._failures) < MAX_FAILURES:
            self._failures.append(Failure(place, str(reason)))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What a report shows."""
        omitted = self.count - len(self._failures)
        if omitted:
            more = Failure("this step", f"{omitted} more failures are not listed")
            return (*self._failures, more)
        return tuple(self._failures)
