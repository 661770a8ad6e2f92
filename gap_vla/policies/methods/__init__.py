"""Training methods; each file says how its method differs from `concat` (`base.py`)."""
