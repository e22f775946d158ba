"""One episode on one memory: what a task asks, carried out and measured. Knows nothing of comparisons.

steps.py      what is asked, as values        run.py        the steps on any cache, and the outcome
reference.py  what full attention predicts, where a step asks for the distance to it
"""
