"""The number of the labels: part of the identity of every dataset that holds ρ."""

LABELS_VERSION = 7
"""Raise it whenever a change of code gives the same episodes, method, seed and options other change points or ρ.

Datasets made before are then made anew (the main job) or refused with this difference named (`build_dataset`).
"""
