"""Readers of other people's demonstrations: one file per format, one registry, one result (`Episode`).

    for episode in gap_vla.demos.read("demos.hdf5", kind="robomimic_hdf5"): ...

`open_source` gives the same episodes by index, with or without images, for tools that read twice or in parallel.
"""

from gap_vla.demos.source import READERS, Source, open_source, read

__all__ = ["READERS", "Source", "open_source", "read"]
