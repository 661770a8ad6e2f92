"""Policies by name, over the network or from a checkpoint: openpi's wire, its client and its server."""
