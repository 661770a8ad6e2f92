"""Fine-tune Octo with GAP: demonstrations, phases, RLDS, training, rollouts, summary.

    python scripts/finetune.py --config finetune_configs/threading.py                      # everything, default profile
    python scripts/finetune.py --config finetune_configs/threading.py:debug                # the same path in seconds
    python scripts/finetune.py --config finetune_configs/threading.py --config.method=vp   # v | vp | vp_gap
    python scripts/finetune.py --config finetune_configs/threading.py:paper --dry_run      # build, describe, stop

Stages that are there already (demonstrations, dataset, episode store) are reused; any key of the configuration can be
overridden with --config.KEY=VALUE. The results lie in runs/TASK/NAME/: config.json, checkpoint/, metrics.jsonl,
tensorboard/, first_batch.png, rollouts/, summary.json, and report.html, the page to look at.
"""

import sys

from gap_vla.core.errors import command


@command
def main() -> int:
    from absl import flags

    from gap_vla.cli.configured import run_command

    add = flags.DEFINE_bool
    add("resume", False, "Go on with this configuration's run from its last checkpoint (or start it).")
    add("dry_run", False, "Build everything, print shapes, parameter groups and memory, and stop.")
    flags.DEFINE_string("run_name", "", "Name of the run directory below runs/TASK/; default: method, seed and hash.")
    return run_command(finetune, __doc__)


def finetune(config) -> None:
    from absl.flags import FLAGS

    from gap_vla.training import pipeline

    if FLAGS.dry_run:
        print(pipeline.dry_run(config))
        return
    summary = pipeline.finetune(config, FLAGS.run_name, FLAGS.resume)
    print(pipeline.report(summary, pipeline.run_directory_of(config, FLAGS.run_name)))


if __name__ == "__main__":
    sys.exit(main())
