"""The tasks by name; `make_task` is the factory. Values alone: no torch is needed to build an episode's steps.

base.py         what a task is, and the text they are made from
told.py         what tasks of told facts share         words.py       what they draw from
recall.py       facts in running text, then questions  revisited.py   asked again while text goes on
corrections.py  facts changed, facts disputed          needles.py     many keys, many values, many at once
passkey.py      digits by depth                        tracking.py    names that stand for names
aggregation.py  which words are common                 babi.py        facts to be put together
chat.py, chat_facts.py  facts in a conversation
text.py         loss on running text, of a copy        loss.py        loss by reach and position, KL to full attention
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from megacontext.errors import ConfigError
from megacontext.evaluation.tasks.aggregation import CommonWords, FrequentWords
from megacontext.evaluation.tasks.babi import Babi
from megacontext.evaluation.tasks.base import Task
from megacontext.evaluation.tasks.chat import ChatRecall
from megacontext.evaluation.tasks.corrections import Contradicted, Corrected
from megacontext.evaluation.tasks.loss import KlToFull, LongRange, PositionLoss
from megacontext.evaluation.tasks.needles import MultiKey, MultiQuery, MultiValue
from megacontext.evaluation.tasks.passkey import Passkey
from megacontext.evaluation.tasks.recall import LateRecall, ManyQuestions
from megacontext.evaluation.tasks.revisited import Revisited
from megacontext.evaluation.tasks.text import CopyAtDistance, PlainText
from megacontext.evaluation.tasks.tracking import VariableTracking

_ALL: tuple[Task, ...] = (
    LateRecall(),
    LateRecall(name="late_recall_chained", stay=True),
    LateRecall(name="late_recall_long", tokens=24_000, facts=40),
    LateRecall(name="late_recall_100x", tokens=102_400, facts=40),  # of 1,024 slots: minutes of reading
    ManyQuestions(),
    ManyQuestions(name="late_recall_64_chained", stay=True),
    Revisited(),
    Revisited(name="recall_revisited_chained", stay=True),
    Corrected(),
    Contradicted(),
    MultiKey(),
    MultiValue(),
    MultiQuery(),
    Passkey(),
    VariableTracking(),
    CommonWords(),
    FrequentWords(),
    Babi(),
    CopyAtDistance(),
    ChatRecall(),
    ChatRecall(name="chat_recall_many", facts=14),
    PlainText(),
    PlainText(name="plain_text_six", documents=6),
    LongRange(),
    PositionLoss(),
    KlToFull(),
)
TASKS = {task.name: task for task in _ALL}


def check_name(kind: str, name: str, there: list[str]) -> str:
    """`name`, if it is one of those `there` are. Raises ConfigError with the nearest one."""
    if name in there:
        return name
    near = get_close_matches(name, there, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"no {kind} {name!r}.{guess} There are {', '.join(there)}.")


def make_task(name: str, *, tokens: int | None = None, private: str = "") -> Task:
    """The task called `name`, with another length of history if `tokens` says so. Raises ConfigError for a bad name.

    private: mixed into every draw; see Task.
    """
    task = replace(TASKS[check_name("task", name, list(TASKS))], private=private)
    return task if tokens is None else replace(task, tokens=tokens)
