"""What may import what: a room only rooms before it in the order of the plan, and no file itself through others."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("core drawing phases demos rlds adjustment octo policies sim rollouts serving report training cli").split()


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for part in ("gap_vla", "experiments") for path in sorted((ROOT / part).rglob("*.py"))}


def homes_of(package, path):
    """What a package offers lazily (`gap_vla.core.lazy.exports`): name to the module that defines it."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    exports = [call.args[1] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "exports"]
    return {
        name: f"{package}.{home}"
        for homes in exports
        for home, names in ast.literal_eval(homes).items()
        for name in names.split()
    }


HOMES = {package: homes_of(package, path) for package, path in FILES.items() if path.name == "__init__.py"}


def imports_of(path):
    """Every module that a file names in an import, wherever in it that stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                inner = HOMES.get(node.module, {}).get(alias.name, f"{node.module}.{alias.name}")
                yield inner if inner in FILES else node.module


IMPORTS = {module: set(imports_of(path)) for module, path in FILES.items()}


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "gap_vla" and len(parts) > 1 else ""


def test_every_folder_of_the_library_is_a_room():
    assert sorted(ROOMS) == sorted(path.parent.name for path in (ROOT / "gap_vla").glob("*/__init__.py"))


@pytest.mark.parametrize("outside", ["experiments", "scripts", "benchmarks", "tests"])
def test_the_library_imports_nothing_that_is_not_in_the_wheel(outside):
    found = [(m, i) for m in IMPORTS if m.startswith("gap_vla") for i in IMPORTS[m] if i.split(".")[0] == outside]
    assert not found


def test_a_room_imports_only_rooms_before_it():
    against = [
        f"{FILES[module].relative_to(ROOT)} → {room_of(imported)}"
        for module, imports in IMPORTS.items()
        for imported in imports
        if room_of(module) in ROOMS
        and room_of(imported) in ROOMS
        and ROOMS.index(room_of(imported)) > ROOMS.index(room_of(module))
    ]
    assert not against


def test_drawing_knows_no_other_room_but_core():
    found = {room_of(i) for m in IMPORTS if room_of(m) == "drawing" for i in IMPORTS[m]} - {"", "core", "drawing"}
    assert not found


def reached_from(module):
    """Every file that a file imports, directly or through others."""
    found, ahead = set(), [module]
    while ahead:
        new = {i for i in IMPORTS[ahead.pop()] if i in FILES} - found
        found |= new
        ahead += new
    return found


def test_no_files_import_each_other_in_a_circle():
    reached = {module: reached_from(module) for module in FILES}
    circles = {tuple(sorted(o for o in reached[m] if m in reached[o])) for m in FILES if m in reached[m]}
    assert not circles
