"""One episode on one memory: what a task asks, carried out and measured. Knows nothing of comparisons.

steps.py    what is asked, as values    run.py        the steps on any cache
outcome.py  what was measured           reference.py  what full attention predicts, where KL is asked for
"""
