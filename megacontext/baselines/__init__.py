"""Other people's memories behind the same hook: one paper, one file, one dataclass with the paper's own defaults.

limits.py      what every one of them is given: slots, rows a pass
copying.py     copies and bytes of whatever a cache holds
one_conversation.py   what every one of them is: passes of a few rows, rollback, forks
slots.py       one layer's slots, from which any head may drop any row
evicting.py    what all share that keep a budget by dropping rows
observing.py   what those of them share that ask their last queries
keeping.py     what all share that keep every row and read a part
rereading.py   what all share that put text into a prompt which the model reads anew
query_notes.py, repeating.py, matching.py   parts of one method each
registry.py    all of them by name, with the settings that are tried

They know the hook and the plain caches, nothing of MegaContext. Each says in its own file where it differs from its
paper; all of them read text in passes of a few rows under their budget, because a history may be longer than any cache.
"""
