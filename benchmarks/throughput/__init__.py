"""How fast seeds train, and what a start costs. `steps` and `precision` are commands of their own."""
