"""The notebooks run from top to bottom, and are kept without their outputs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run_notebook(name, folder, monkeypatch, limit=1800):
    """Runs it in `folder`, where the repository's configurations are, and returns what its cells printed."""
    from nbclient import NotebookClient

    for seen in ("finetune_configs", "rlds_builders"):
        (folder / seen).symlink_to(ROOT / seen)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    monkeypatch.setenv("TMPDIR", str(folder))
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    NotebookClient(notebook, timeout=limit, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook shows pictures"
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_phases_and_rho_are_shown_for_demonstrations(tmp_path, monkeypatch):
    said = run_notebook("phases_and_rho.ipynb", tmp_path, monkeypatch)
    assert "6 demonstrations" in said and "change points of the first: [" in said


@pytest.mark.slow
def test_a_policy_that_does_not_look_is_told_from_one_that_does(tmp_path, monkeypatch):
    said = run_notebook("a_policy_that_does_not_look.ipynb", tmp_path, monkeypatch)
    assert "It looks" in said and "It hardly looks" in said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert path.stat().st_size < 50_000
