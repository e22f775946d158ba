"""How fast memories are, side by side. `python -m megacontext.evaluation.speed` prints the table.

names.py       who is timed           __main__.py    the command line
opening.py     contenders, by name    field.py       all contenders, in turns
contenders.py  what is timed, ours    same_slots.py  a plain cache beside another memory
answering.py   it, in an answer       theirs.py      transformers
bare.py        every weight once      filling.py     rows that nobody computed
figures.py     medians, ratios        history.py     one memory alone, for tools/bench_history.py
"""
