"""Compare V, VP and VP+GAP over seeds on the same data and the same evaluation layouts.

    python scripts/compare.py --config finetune_configs/assembly.py --seeds 0,1,2
    python scripts/compare.py --config finetune_configs/assembly.py --seeds 0 --methods vp,vp_gap

Every (method, seed) is a run of scripts/finetune.py. Finished ones are skipped and started ones go on, so this command
can be stopped at any moment (Ctrl-C) and given again. It prints success per method (mean over seeds, interval) and the
paired differences, and leaves the same as table.md and table.png in runs/TASK/compare-HASH/.
"""

import sys

from gap_vla.core.errors import UserError, command


@command
def main() -> int:
    from absl import flags

    from gap_vla.cli.configured import run_command

    flags.DEFINE_list("seeds", ["0", "1", "2"], "Training seeds, separated by commas.")
    flags.DEFINE_list("methods", ["v", "vp", "vp_gap"], "Methods, separated by commas.")
    return run_command(run, __doc__)


def run(config) -> None:
    from absl.flags import FLAGS

    from gap_vla.training.comparison import compare, comparison_directory

    if not all(seed.isdigit() for seed in FLAGS.seeds):
        raise UserError(f"--seeds is {','.join(FLAGS.seeds)!r}; give whole numbers separated by commas, such as 0,1,2")
    print(compare(config, FLAGS.methods, [int(seed) for seed in FLAGS.seeds]))
    print(f"table.md and table.png lie in {comparison_directory(config)}")


if __name__ == "__main__":
    sys.exit(main())
