"""What the machine has, and refusing beforehand what needs more. Only the standard library is imported."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from gap_vla.core.errors import UserError
from gap_vla.core.lazy import USUAL_JAX, products, unusual_jax


class ResourceError(UserError, RuntimeError):
    """The machine has less than is needed; the message says how much of what."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: of the machine, and of its container or job (cgroup 1 and 2).

    None where the system does not say.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for folder, limit, used in _memory_groups(root):
        with contextlib.suppress(OSError, ValueError):  # no such cgroup, or no limit ("max")
            most = int((folder / limit).read_text())
            entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            files = ("inactive_file", "active_file")  # what was read of them gives way, the latter once read twice
            cached = sum(int(entries.get(f"total_{kind}", entries.get(kind, 0))) for kind in files)
            found.append(most - int((folder / used).read_text()) + cached)
    return max(min(found), 0) if found else None


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Folder of this process's group and of each above it, and its files with limit and use; a container sees its own
    group as the root."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own |= dict.fromkeys(controllers.split(","), path.lstrip("/"))
    for name, limit, used in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        top = root / "sys/fs/cgroup" / name
        folder = top / own.get(name, "")
        yield from ((place, limit, used) for place in (folder, *folder.parents) if place.is_relative_to(top))


def free_disk(folder: Path | str) -> int | None:
    """Bytes that may still be written to a folder, which need not exist yet; None on a file system that counts none,
    such as a ramfs."""
    place = shutil.disk_usage(existing_parent(folder))
    return place.free if place.total else None


def existing_parent(path: Path | str) -> Path:
    """The path itself, or the nearest of its parents that exists; ResourceError for a link that leads nowhere, a `~`
    that no shell has replaced by the home folder, as in `--out=~/demos`, an address, as `gs://bucket`, or a `..`
    after a folder that is not there, which is no place for the system and the folder above for `os.path.realpath`."""
    first = Path(path).parts[0] if Path(path).parts else ""
    if re.fullmatch(r"~[\w-]*", first):
        home = "$HOME" if first == "~" else os.path.expanduser(first)
        if home == first:
            raise ResourceError(f"{path} begins with {first}, and this machine has no such user; write the folder out")
        why = "which a shell leaves as it is behind a = sign"
        raise ResourceError(f"{path} begins with {first}, {why}; write {home} instead")
    if re.fullmatch(r"[A-Za-z][\w+.-]+:", first) and not Path(first).exists():
        advice = "give a folder of this machine, and copy what is there, or comes there, yourself"
        raise ResourceError(f"{path} is an address; {advice}")
    path = Path(path).absolute()
    place = next(place for place in (path, *path.parents) if place.is_symlink() or place.exists())
    if place.is_symlink() and not place.exists():
        raise ResourceError(f"{place} is a link that leads nowhere; remove it, or name another place")
    if ".." in (missing := path.parts[len(place.parts) :]):
        through = f"{place}, which is no folder" if place.is_file() else f"{place / missing[0]}, which is not there"
        raise ResourceError(f"{path} leads through {through}; name the place without ..")
    return place


def require_writable(folder: Path | str, key: str) -> None:
    """Raises ResourceError if nothing can be created in a folder (or in what exists of it); `key` names the setting."""
    if not str(folder):
        raise ResourceError(f"{key} is an empty text; give a folder, . for the present one")
    place = existing_parent(folder)
    if not place.is_dir():
        raise ResourceError(f"{key} is {str(folder)!r}, but {place} is a file; give a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ResourceError(f"{key} is {str(folder)!r}, but {place} is not writable; give another folder")


def require_memory(needs: Mapping[str, float], advice: str) -> None:
    """Refuses what is estimated to need more memory than there is.

    Args:
        needs: what, and how many bytes of it.
        advice: what to do, as which settings to lower.

    Raises:
        ResourceError: with all numbers.
    """
    _require(needs, "memory", available_memory(), advice)


def require_disk(needs: Mapping[str, float], folder: Path | str, advice: str) -> None:
    """The same for the disk that a folder is on."""
    _require(needs, f"disk in {folder}", free_disk(folder), advice)


def _require(needs: Mapping[str, float], what: str, have: float | None, advice: str) -> None:
    if have is not None and (total := sum(needs.values())) > have:
        parts = ", ".join(f"{name} {shown(size)}" for name, size in needs.items())
        short = shown(have) if shown(have) != shown(total) else "less"
        raise ResourceError(f"about {shown(total)} of {what} are needed ({parts}), and {short} are free; {advice}")


def require_usual_jax() -> None:
    """Raises ResourceError for variables that make JAX compute other numbers; loads no JAX."""
    for name, usual in USUAL_JAX.items():
        if (value := os.environ.get(name)) and value.lower() not in usual:
            raise ResourceError(
                f"{name} is {value}, with which other numbers, or none, come of the same settings; unset it"
            )


def unusual_settings() -> list[str]:
    """What JAX and torch, as far as they are loaded, do otherwise for all that follows than they do by themselves."""
    found = [f"JAX's {name} to {value}" for name, (value, _) in unusual_jax().items()]
    if torch := sys.modules.get("torch"):
        device = ""
        with contextlib.suppress(AssertionError, RuntimeError):  # torch asks a device that is not there which it is
            device = torch.get_default_device().type
        found += ["torch's default type"] * (torch.get_default_dtype() != torch.float32)
        found += ["torch's default device"] * (device != "cpu")
        found += ["torch's gradients"] * (not torch.is_grad_enabled())
        found += ["torch's automatic casts"] * any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        if parts := products(torch):
            found += ["torch's precision"] * any(part.fp32_precision not in ("none", "ieee") for part in parts)
        else:
            found += ["torch's precision"] * (torch.get_float32_matmul_precision() != "highest")
    return found


def require_jax_device() -> None:
    """Raises ResourceError as `require_usual_jax`, or if JAX finds none of the devices that `JAX_PLATFORMS` names."""
    require_usual_jax()
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # the former, without words, where no GPU is
        kinds = os.environ.get("JAX_PLATFORMS")
        why = f" ({error})" if str(error) else ""
        raise ResourceError(f"JAX_PLATFORMS is {kinds}: no such device{why}; name cpu, or unset it") from None


def shown(size: float) -> str:
    """
    >>> shown(3 * 2**29), shown(2**20), shown(3000)
    ('1.5 GiB', '1.0 MiB', '2.9 KiB')
    """
    if size < 2**29:
        return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
    return f"{size / 2**30:.1f} GiB" if size < 1000 * 2**30 else f"{size / 2**30:,.0f} GiB"
