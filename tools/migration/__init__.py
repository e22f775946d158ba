"""What `python -m tools.migration_status` is made of: the document, its evidence, and what the docs name."""
