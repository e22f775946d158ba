"""From rows to a report. `python -m megacontext.evaluation.report` writes it.

reading.py   files, and what is no row        shape.py     what a row must look like
study.py     rows in order: settings, tasks   figures.py   a row's figures by seed
standing.py  the best, and the as good        words.py     figures as words
blocks.py    tables and sections, no format   overview.py  summary, losses, settings
one_task.py  a task's tables                  speeds.py    tables of speed
gaps.py      what is missing or mixed         looks.py     how each memory is drawn
lines.py     what is drawn, as points         pictures.py  the pictures
contents.py  the whole report, in order       markdown.py  as Markdown
webpage.py   as one page of HTML
"""
