"""What every room may use: how commands fail, and what may be written where. Imports no other room."""
