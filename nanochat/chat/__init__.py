"""The chat command, `python -m nanochat.chat`.

__main__.py  exit codes, and nothing imported before it is needed     flags.py     the command line
run.py       one run from config to run_end                           repl.py      prompt, reply, prompt
commands.py  /help, /context, ...                                     meter.py     figures as text
output.py    what goes to stdout: text or JSON lines                  terminal.py  progress, Ctrl-C, other ends
setup.py     model, session, memory: what a conversation needs        talk.py      replies out, documents in
sessions.py  from one session to another; session_commands.py: /sessions, /fork, ...; session_files.py: --export, ...
"""
