"""What an evaluation comes to, without one."""

from gap_vla.rollouts.records import EpisodeRecord, summarize


def evaluation_of(outcomes, phases=(), steps=10):
    """As `evaluate` returns it, by layout and success; failures end in the last of the phases."""
    end = phases[-1] if phases else None
    episodes = enumerate(dict(outcomes).items())
    return summarize([EpisodeRecord(n, layout, bool(won), steps, end) for n, (layout, won) in episodes], phases)
