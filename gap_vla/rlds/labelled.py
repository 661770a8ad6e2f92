"""A source whose episodes are labelled with ρ as they are read, by an annotator that is already there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gap_vla.core.episode import Episode
from gap_vla.demos.source import Source

if TYPE_CHECKING:
    from gap_vla.phases import Annotator


class LabelledSource(Source):
    """`source` with ρ: nothing is kept in memory, so a shard's worker labels only what it writes.

    Args:
        source: the demonstrations.
        annotator: fitted before (`gap_vla.phases.annotate(...)`, `load_annotator(...)`).
    """

    def __init__(self, source: Source, annotator: Annotator) -> None:
        self.kind, self.path, self.options = source.kind, source.path, source.options
        self._source, self._annotator = source, annotator

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int, *, images: bool = True) -> Episode:
        return with_rho(self._source.read(index, images=images), self._annotator)

    def identity(self) -> dict[str, Any]:
        return self._source.identity()


def with_rho(episode: Episode, annotator: Annotator) -> Episode:
    """The episode with the annotator's ρ and change points."""
    return annotator.annotate([episode], workers=1).apply([episode])[0]
