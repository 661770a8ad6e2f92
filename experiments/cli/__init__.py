"""The commands of scripts/ that need the checkout: how each is called, and what it does."""
