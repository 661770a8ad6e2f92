"""Train a small torch policy with any of the methods, roll it out, and say how often it succeeds.

    python scripts/train_small.py --config finetune_configs/small_assembly.py --config.method=gap
    python scripts/train_small.py --config finetune_configs/small_threading.py --config.method=concat
    python scripts/train_small.py --config finetune_configs/small_assembly.py:debug      # the same path in seconds

Methods: docs/POLICIES.md. Stages that are there already (demonstrations, dataset, episode store) are reused and shared
with scripts/finetune.py; any key of the configuration can be overridden with --config.KEY=VALUE. The results lie in
runs/TASK/small-METHOD-…/: config.json, checkpoint/, metrics.jsonl, tensorboard/, first_batch.png, rollouts/VARIANT/,
summary.json.
"""

import sys

from gap_vla.core.errors import command


@command
def main() -> int:
    from absl import flags

    from gap_vla.cli.configured import run_command
    from gap_vla.policies import SmallConfig

    flags.DEFINE_bool("resume", False, "Go on with this configuration's run from its last saved state (or start it).")
    flags.DEFINE_string("run_name", "", "Name of the run directory below runs/TASK/; default: method, seed and hash.")
    return run_command(train, __doc__, config_type=SmallConfig)


def train(config) -> None:
    from absl.flags import FLAGS

    from gap_vla.training.small import report, run_directory_of, train_small

    summary = train_small(config, FLAGS.run_name, FLAGS.resume)
    print(report(summary, run_directory_of(config, FLAGS.run_name)))


if __name__ == "__main__":
    sys.exit(main())
