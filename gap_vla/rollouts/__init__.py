"""Policies acting in simulators: success counted with intervals, and diagnosed."""
