"""A comparison whose cells count to thirty instead of training: `python comparison_of_slow_cells.py RUNS`.

Cells are spawned, so they import this file too and find the replaced functions. While `RUNS/hold` exists, the cell of
method vp waits at 10 until it is stopped.
"""

import os
import sys
import time
from pathlib import Path

from evaluations import finish

from gap_vla.core.run_directory import RunDirectory
from gap_vla.training import comparison
from gap_vla.training.loop import StopRequest
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import Run


def count_to_thirty(config: FinetuneConfig, *, resume: bool, wait: bool) -> None:
    """Stands for `finetune`: goes on where it was stopped, saves on Ctrl-C, writes its summary last."""
    run = RunDirectory.claim(Run(config).directory.path, config.to_dict(), resume)
    log = Path(config.runs) / "log.txt"
    counter = run.path / "count.txt"
    with StopRequest() as stop:
        for count in range(int(counter.read_text()) if counter.exists() else 0, 30):
            with log.open("a") as file:
                file.write(f"{config.method} {count} {os.getpid()}\n")
            while config.method == "vp" and count == 10 and log.with_name("hold").exists() and not stop.requested:
                time.sleep(0.01)
            if stop.requested:
                counter.write_text(str(count + 1))
                raise KeyboardInterrupt
    finish(run, config, {1: False, 2: True})


comparison.finetune = count_to_thirty  # type: ignore[assignment]
comparison.prepare_data = lambda config, stages: None  # type: ignore[assignment,return-value]

if __name__ == "__main__":
    comparison.compare(FinetuneConfig(task="threading", runs=sys.argv[1]), ["v", "vp"], [0])
