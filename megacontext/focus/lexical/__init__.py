"""What LexicalStore stands on: records, the newest of them, sorted segments of the others, votes."""
