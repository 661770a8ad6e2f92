"""Leaves with the annotating of 0.2."""


def check_example(*_):  # type: ignore[no-untyped-def]
    return iter(())
