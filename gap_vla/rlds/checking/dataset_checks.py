"""Leaves with the builder of 0.2."""


def tell_duplicates(*_):  # type: ignore[no-untyped-def]
    return None
