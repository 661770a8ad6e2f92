"""Compare V, VP and VP+GAP over seeds on the same data and the same evaluation layouts.

    gap-vla compare --config finetune_configs/assembly.py --seeds 0,1,2
    gap-vla compare --config finetune_configs/assembly.py --seeds 0 --methods vp,vp_gap

Every (method, seed) is a run of `gap-vla finetune`, or of `train-small` where the configuration is one of small
policies (v, vp and vp_gap are called vision, concat and gap there). Finished ones are skipped and started ones go on,
so this command can be stopped at any moment (Ctrl-C) and given again. It prints success per method (mean over seeds,
interval) and the paired differences, and leaves the same as table.md and table.png in runs/TASK/compare-HASH/. Status 1
means that runs failed; they are named, and tried again when the command is given again.
"""

from __future__ import annotations

from gap_vla.cli.arguments import answering, command_parser, numbers
from gap_vla.core.errors import NEGATIVE, command


@command
def main(argv: list[str] | None = None) -> int:
    from gap_vla.cli.configured import parse_configured
    from gap_vla.training.comparison import compare_methods, comparison_directory
    from gap_vla.training.octo import FinetuneConfig

    parser = command_parser(__doc__, answers=True)
    add = parser.add_argument
    add("--seeds", type=numbers, default=[0, 1, 2], metavar="N,N", help="training seeds (default: 0,1,2)")
    add("--methods", type=names, default=["v", "vp", "vp_gap"], metavar="NAME,NAME", help="default: v,vp,vp_gap")
    config, options = parse_configured(parser, FinetuneConfig, argv)
    with answering(options) as answer:
        text, failed, table = compare_methods(config, options.methods, options.seeds)
        answer |= {"folder": comparison_directory(config), "failed": failed, **table}
        print(f"{text}\ntable.md and table.png lie in {answer['folder']}" if text else "no run has finished")
        if failed:
            print(f"failed: {'; '.join(failed)} (reasons above, and in cells.json)")
    return NEGATIVE if failed else 0


def names(text: str) -> list[str]:
    return text.split(",")
