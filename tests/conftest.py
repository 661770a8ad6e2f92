"""Array annotations are checked at run time: a wrong shape at a public boundary fails the test that caused it."""

import signal

from jaxtyping import install_import_hook

CHECKED = ["gap_vla.adjustment", "gap_vla.phases", "gap_vla.policies"]
install_import_hook(CHECKED, "beartype.beartype")

# A shell ignores Ctrl-C in what it starts in the background, and every process below inherits that; the tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
