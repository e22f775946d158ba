"""What `tools/prepare_dataset.py` is made of: texts in, examples of tokens and a teacher's hidden states out.

settings.py   what a configuration file asks for     documents.py  files, their text, their tokens in pieces
models.py     tokenizer and teacher                  spool.py      the tokens of all documents, on disk
examples.py   which tokens make an example           rows.py       examples as a safetensors file
arrow.py      the same as an Arrow file              work.py       the folder of an unfinished run, and what it knows
metadata.py   metadata.yaml                          prepare.py    the main loop
"""
