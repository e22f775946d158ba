"""The earlier configuration files, read by their own keys."""
