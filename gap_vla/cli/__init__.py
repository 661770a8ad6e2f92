"""The commands: what they read from their command lines and print; `scripts/` call them."""
