"""Compare V, VP and VP+GAP over seeds on the same data and the same evaluation layouts.

    gap-vla compare --config finetune_configs/assembly.py --seeds 0,1,2
    gap-vla compare --config finetune_configs/assembly.py --seeds 0 --methods vp,vp_gap

Every (method, seed) is a run of `gap-vla finetune`, or of `train-small` where the configuration is one of small
policies (v, vp and vp_gap are called vision, concat and gap there). Finished ones are skipped and started ones go on,
so this command can be stopped at any moment (Ctrl-C) and given again. It prints success per method (mean over seeds,
interval) and the paired differences, and leaves the same as table.md and table.png in runs/TASK/compare-HASH/. The
table is of the runs that the call names, and replaces that of an earlier call: name them all in the end. Status 1 means
that runs failed; they are named, and tried again when the command is given again.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from gap_vla.core.errors import NEGATIVE, UserError, command


@command
def main(argv: list[str] | None = None) -> int | None:
    from gap_vla.cli.configured import config_parser, run_configured

    parser = config_parser(__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="training seeds, separated by commas (default: 0,1,2)")
    parser.add_argument("--methods", default="v,vp,vp_gap", help="separated by commas (default: v,vp,vp_gap)")
    for word in sys.argv[1:] if argv is None else argv:
        if re.match(r"--?config\.(method|train\.seed)(=|$)", word):
            parser.error(f"{word} has no effect here; say it with --methods, or --seeds")
    return run_configured(_run, parser, argv)


def _run(config: Any, options: Any) -> int:
    from gap_vla.cli.arguments import answering
    from gap_vla.training.comparison import compare, comparison_directory

    seeds = options.seeds.split(",")
    if not all(seed.isascii() and seed.isdecimal() and len(seed) <= 10 for seed in seeds):
        raise UserError(f"--seeds is {options.seeds!r}; give whole numbers separated by commas, such as 0,1,2")
    if not config.eval.episodes:
        raise UserError("eval.episodes is 0, so nothing would be compared; set --config.eval.episodes=…")
    out = comparison_directory(config)
    with answering(options) as answer:
        text, failed, table = compare(config, options.methods.split(","), [int(seed) for seed in seeds])
        answer |= {"folder": out, "failed": failed, **table}
        if text:
            print(f"{text}\ntable.md and table.png lie in {out}")
        if failed:
            print(f"failed: {'; '.join(failed)} (reasons above, and in cells.json)")
    return NEGATIVE if failed else 0
