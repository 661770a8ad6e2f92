"""Readers of other people's demonstrations: one file per format, one registry, one result (`Episode`).

for episode in gap_vla.demos.open_source("demos.hdf5"): ...
"""

from gap_vla.demos.fields import Fields
from gap_vla.demos.source import READERS, Source, open_source

__all__ = ["READERS", "Fields", "Source", "open_source"]
