"""What an evaluation comes to, without one."""

import json

from gap_vla.rollouts.records import EpisodeRecord, summarize


def evaluation_of(outcomes, phases=(), steps=10):
    """As `evaluate` returns it, by layout and success; failures end in the last of the phases."""
    end = phases[-1] if phases else None
    episodes = enumerate(dict(outcomes).items())
    return summarize([EpisodeRecord(n, layout, bool(won), steps, end) for n, (layout, won) in episodes], phases)


def finish(run, config, outcomes):
    """Writes what a training leaves in its directory in the end; the outcomes come again and again."""
    won, count = [*dict(outcomes).values()], config.eval.episodes
    outcomes = {100_000 + number: won[number % len(won)] for number in range(count)}
    measured = {"val/action_mse": 0.5 + config.train.seed / 100, "val/mean_action_mse": 1.0}
    run.metrics.write_text(json.dumps({"step": config.train.steps, **measured}) + "\n")
    summary = {"task": config.task, "method": config.method, "seed": config.train.seed, "seconds": {}}
    evaluation = {**evaluation_of(outcomes), "task": {"variant": config.eval.variant}, "videos": []}
    summary |= {"steps": config.train.steps, "validation": measured, "rollouts": evaluation}
    run.summary.write_text(json.dumps(summary))
