"""Array annotations are checked at run time: a wrong shape at a public boundary fails the test that caused it."""

from jaxtyping import install_import_hook

CHECKED = ["gap_vla.adjustment", "gap_vla.phases", "gap_vla.policies"]
install_import_hook(CHECKED, "beartype.beartype")
