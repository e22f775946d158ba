"""What is done with whole sessions: list, copy, write down as messages, carry to another machine.

stored.py      read a session as it lies on disk       listing.py   which there are
making.py      a new one, there whole or not at all    copying.py   a fork, with what was derived
transcript.py  tokens -> messages                      rendering.py messages -> tokens
messages.py    messages as JSON, from anyone           portable.py  everything in one file
"""
