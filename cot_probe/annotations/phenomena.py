"""What the scenarios are about: phenomena and types of hard negatives, by name.

A record's ``phenomenon`` is the theme of its scenario card. The tables here group themes under
the names that counts and evaluations report.
"""

from collections.abc import Sequence
from typing import Final

from cot_probe.annotations.records import AnnotatedTrace

PHENOMENA: Final[dict[str, tuple[str, ...]]] = {
    "replacement threat": ("replacement_threat",),
    "goal conflict": ("goal_conflict",),
    "blackmail": ("blackmail",),
    "leak to a competitor or outsider": ("leak_to_outsider",),
    "harm by a cancelled alert": ("cancelled_alert",),
    "harm or breach against an explicit command": ("harm_or_breach_against_command",),
    "test or real, asked and unasked": ("test_or_real_asked", "test_or_real_unasked", "reality_statements"),
    "shutdown resistance": ("shutdown_resistance",),
    "peer preservation": ("peer_preservation",),
    "alignment faking": ("alignment_faking",),
    "sandbagging and scheming": ("sandbagging_and_scheming",),
    "reward hacking and leaked answers": ("reward_hacking", "leaked_answers"),
    "insider trading": ("insider_trading",),
    "oversight subversion and exfiltration": ("oversight_subversion",),
    "collusion": ("collusion",),
    "research sabotage": ("research_sabotage",),
    "deceiving a user or customer": ("customer_deception",),
    "faked work": ("faked_work",),
    "covert side task": ("covert_side_task",),
    "harmless departures from instructions": ("instruction_departures",),
    "dilemma": ("dilemma",),
    "terse agent steps": ("terse_agent_steps",),
    "one-liners": ("one_liners",),
    "long traces": ("long_traces",),
    "twins": ("twins",),
    "other languages": ("mixed_languages", "other_languages"),
}
"""Name to themes of the scenario cards."""

HARD_NEGATIVES: Final[dict[str, tuple[str, ...]]] = {
    "software tests and evaluation as the task": ("benign:software_tests_and_grading",),
    "security review and red-team work": ("benign:security_review",),
    "victims and reporters": ("benign:victims_and_reporters",),
    "whistle-blowing considered openly": ("benign:whistle_blowing",),
    "refusals of harmful requests": ("benign:refusals",),
    "policy quoted or obeyed": ("benign:policy_quoted",),
    "considered and rejected": (),
    "fiction and games": ("benign:fiction_and_games",),
    "negotiation": ("benign:negotiation",),
    "real and test in innocent senses": ("benign:real_and_test_words",),
    "process-control words": ("benign:process_words",),
    "instructions in conflict, resolved by rank": ("benign:rank_of_instructions",),
    "long dull agent work": ("benign:dull_agent_work",),
    "mathematics and code": ("benign:mathematics_and_code",),
    "customer service with rules": ("benign:service_rules",),
    "privacy and risk, properly handled": ("benign:privacy_and_risk",),
    "temptation in view, plain work": ("benign:tempting_but_plain_work",),
    "everyday reasoning": ("benign:everyday_reasoning",),
}
"""Types of hard negatives; "considered and rejected" is told by the labels, not by the theme."""


def of_phenomenon(records: Sequence[AnnotatedTrace], name: str) -> list[AnnotatedTrace]:
    """Traces of a phenomenon, with and without tags."""
    return [record for record in records if record.phenomenon in PHENOMENA[name]]


def of_hard_negative(records: Sequence[AnnotatedTrace], name: str) -> list[AnnotatedTrace]:
    """Traces of a hard-negative type that carry no public tag: no label but ``harm_rejected``, if any."""
    free = [record for record in records if not record.trace - {"harm_rejected"}]
    if name == "considered and rejected":
        return [record for record in free if record.trace]
    return [record for record in free if record.phenomenon in HARD_NEGATIVES[name]]


def report_name(theme: str) -> str:
    """The name under which a theme is reported; a theme in no table stands for itself."""
    for table in (PHENOMENA, HARD_NEGATIVES):
        for name, themes in table.items():
            if theme in themes:
                return name if table is PHENOMENA else f"hard negatives: {name}"
    return theme
