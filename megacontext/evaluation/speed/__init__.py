"""How fast memories are, side by side. `python -m megacontext.evaluation.speed` prints the table.

figures.py     medians, ratios       __main__.py    the command line
contenders.py  what is timed, ours    same_slots.py  a plain cache beside another memory
theirs.py      transformers          field.py       all contenders, in turns
bare.py        every weight once     filling.py     rows that nobody computed
history.py     one memory alone, for tools/bench_history.py
"""
