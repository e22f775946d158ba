"""What tools/bench_store.py measures: stores of any length of history, and what opening and using them costs."""
