"""What `python -m tools.doctor` looks at: one file a family of checks, one shape for all that is found."""
