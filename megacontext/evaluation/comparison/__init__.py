"""A comparison of memories: from its file and flags to rows. `python -m megacontext.evaluation.compare` runs it.

matrix.py     which cells there are           selection.py  what the flags make of the file
loop.py       all of it, from file to rows    pool.py       episodes in turn, or in processes
shop.py       what a process needs            runner.py     one model on any cell
ledger.py     the books: episodes, rows       progress.py   how far, how long still
summary.py    from episodes to a row          bootstrap.py  how sure a mean is
rows.py       rows as JSON lines, as a table  code.py       which code a figure was measured with
tuning.py     what each method may try, and the best of it
"""
