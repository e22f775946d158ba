"""What `tools/bootstrap_env.py` is made of: one file a step, one shape for all steps. Standard library only."""
