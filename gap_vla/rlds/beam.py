"""Shards written by Apache Beam: local, Dataflow, Flink or Spark, as the pipeline's options say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gap_vla.rlds.disk import DatasetError
from gap_vla.rlds.labelled import with_rho
from gap_vla.rlds.shards import ShardJob, write_shard


class BeamRunner:
    """Runs shard jobs as a Beam pipeline; give it to `write_rlds(runner=…)`.

    Each job reads its own episodes, labels them if its source carries an annotator, and writes one shard, so a
    worker's memory is bounded by one shard. Finished shards are skipped when an interrupted pipeline runs again.
    Workers need the same package, and the source and the data directory under the same path (a shared file system).

    Args:
        options: Beam's flags (`["--runner=FlinkRunner", …]`) or its `PipelineOptions`; default: in this process.
        runner: a Beam runner, or None to let the options decide.
    """

    def __init__(self, options: Sequence[str] | Any = (), runner: Any = None) -> None:
        self.options, self.runner = options, runner

    def __call__(self, jobs: list[ShardJob]) -> list[dict[str, Any]]:
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError:
            raise DatasetError("Apache Beam is not installed: pip install 'gap_vla[beam]'") from None

        options = (
            self.options if isinstance(self.options, PipelineOptions) else PipelineOptions(list(self.options or ()))
        )
        with beam.Pipeline(runner=self.runner, options=options) as pipeline:
            (pipeline | "shards" >> beam.Create(jobs) | "spread" >> beam.Reshuffle() | "write" >> beam.Map(write_shard))
        return [write_shard(job) for job in jobs]  # every account is on disk: this only reads them


def annotate_with(annotator: Any) -> Any:
    """A Beam transform from episodes to episodes with ρ, for pipelines of your own.

    Args:
        annotator: fitted before (`gap_vla.phases.annotate(...).annotator`, `load_annotator(...)`); it is sent to the
            workers.

    Example:
        episodes | annotate_with(load_annotator("annotator")) | …
    """
    import apache_beam as beam

    return "rho" >> beam.Map(with_rho, annotator)
