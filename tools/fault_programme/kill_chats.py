"""kill -9 of the real chat while its answer streams: every turn that it told as finished must be there afterwards.

A session is begun, killed, taken up and killed again, some times over; each start reads what the one before left. Most
of the chats have a toy model; where the demo model's file is there, some have that.
"""

from __future__ import annotations

import os
from random import Random
from typing import IO

from tools.fault_programme import toy_talk
from tools.fault_programme.chats import ROOT, Chat, Said, ToyChat, replies
from tools.fault_programme.row import Outcome, Plan
from tools.fault_programme.verdict import NAME, broken_logs, what_is_wrong

DEMO_MODEL = ROOT / "artifacts" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
KILLS, KILLS_OF_A_SESSION = 25, 6
REAL_KILLS = 3  # of them, with the demo model; at a scale below 1 none
TURNS, MAX_TOKENS = 4, 20


def run(plan: Plan) -> Outcome:
    outcome = Outcome()
    kills = plan.count(KILLS)
    real = plan.count(REAL_KILLS) if DEMO_MODEL.exists() and plan.scale >= 1 else 0
    made = ToyChat.made(plan.fresh("made"))
    for first in range(0, kills - real, KILLS_OF_A_SESSION):
        chat = made.elsewhere(plan.folder / f"session-{first}", max_tokens=MAX_TOKENS)
        _kill(chat, min(KILLS_OF_A_SESSION, kills - real - first), plan.rng(first), outcome)
    if real:
        _kill(Chat(plan.fresh("demo"), DEMO_MODEL), real, plan.rng("demo"), outcome)
    outcome.said = f"{real} of them with {DEMO_MODEL.stem}" if real else "with a toy model"
    return outcome


def _kill(chat: Chat, kills: int, rng: Random, outcome: Outcome) -> None:
    """All kills of one session."""
    acknowledged: list[Said] = []
    for _ in range(kills):
        prompts = [flag for _ in range(TURNS) for flag in ("-p", toy_talk.sentence(rng))]
        child = chat.start("--session", NAME, "--json", *prompts, "--max-tokens", str(MAX_TOKENS))
        with os.fdopen(child.out, "rb") as out:
            told = _some_lines(out, rng.randint(1, TURNS * (MAX_TOKENS + 1) - 1))
            child.kill()
            acknowledged += replies(told + out.read())
        outcome.kills += 1
        outcome.torn += _was_torn(chat)
    problem = what_is_wrong(chat, acknowledged) or broken_logs(chat.logs)
    outcome.torn += _was_torn(chat)
    outcome.check(problem and f"{chat.home.name}: {problem}")


def _some_lines(out: IO[bytes], count: int) -> bytes:
    return b"".join(out.readline() for _ in range(count))


def _was_torn(chat: Chat) -> bool:
    """Whether the last run found a torn tail."""
    return "moved to quarantine/" in chat.notes
