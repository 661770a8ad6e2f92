"""Every file of `finetune_configs/` with every profile that it offers."""

from pathlib import Path

from gap_vla.training.small_octo import PROFILES

ROOT = Path(__file__).parent.parent


def profiles() -> list[tuple[str, str]]:
    """Name of the file without its suffix, and of the profile."""
    found = []
    for path in sorted((ROOT / "finetune_configs").glob("*.py")):
        scope: dict = {}
        exec(path.read_text(), scope)
        found += [(path.stem, profile) for profile in scope.get("PROFILES", PROFILES)]
    return found
