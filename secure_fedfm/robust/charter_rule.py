"""The rule of a charter: made from its name and parameters, and refused where it cannot work.

The protocol binds a name and numbers; which rules there are is known here. A founder finds out
when the charter is drafted, every site again when it starts.
"""

from __future__ import annotations

from fedfm_protocols.charter import Charter
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.registry import check_works_in, make_rule
from secure_fedfm.robust.rule import Rule

__all__ = ["SCORE_MESSAGE_BYTES", "check_rule", "rule_of"]

SCORE_MESSAGE_BYTES = 1 << 29
"""Room for scores in a ScoreRequest (protocols/README.md, step 7)."""
_SCORE_BYTES, _GROUP_BYTES = 40_960, 5


def rule_of(charter: Charter) -> Rule:
    """Return the rule of a robust charter; with ``groups`` a client must pass it in each of them.

    Raises:
        ConfigurationError: the charter has none, or its rule cannot work there; names what can.
    """
    section = charter.robustness
    if section is None:
        raise ConfigurationError("the charter names no robust rule")
    check_works_in(section.rule, charter.suite, charter.privacy.mode, section.root is not None)
    rule = make_rule(section.rule, section.parameters, every_group=bool(section.groups))
    check_rule(rule, len(charter.roster), charter.thresholds.min_accepted, len(section.groups) or 1)
    return rule


def check_rule(rule: Rule, clients: int, min_accepted: int, groups: int) -> None:
    """Refuse a rule under which no round of this roster could succeed.

    Args:
        rule: to check.
        clients: on the roster.
        min_accepted: fewest in a sum.
        groups: of the sketch layout.

    Raises:
        ConfigurationError: it needs more clients, keeps too few, or makes too many scores to send.
    """
    if rule.fewest > clients:
        raise ConfigurationError(
            f"robust rule {rule.name} with these parameters needs {rule.fewest} clients, the "
            f"roster has {clients}: tolerate fewer attackers, or take cosine-memory"
        )
    most = rule.accepts_at_most(clients)
    if most < min_accepted:
        raise ConfigurationError(
            f"robust rule {rule.name} with these parameters accepts at most {most} of {clients} "
            f"clients, and every sum needs {min_accepted}: raise limits.dropouts, which counts "
            "removed clients too, or let the rule keep more"
        )
    size = clients * (clients + 1) // 2 * (_SCORE_BYTES + _GROUP_BYTES * groups)
    if size > SCORE_MESSAGE_BYTES:
        raise ConfigurationError(
            f"{clients} clients have {size >> 20} MiB of scores a round, a request carries "
            f"{SCORE_MESSAGE_BYTES >> 20} MiB (about 160 clients); enrol fewer, or no robust rule"
        )
