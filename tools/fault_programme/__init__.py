"""What the fault programme is made of."""
