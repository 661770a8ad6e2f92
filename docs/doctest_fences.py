"""Doctests of docstrings become blocks of code on the pages; Markdown would take `>>>` for quotations."""

import re
from typing import Any

import griffe


class DoctestFences(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Every paragraph that begins with `>>>` as a block, also an indented one.

    >>> fenced("One.\\n\\n    >>> 1 + 1\\n    2\\n\\nTwo.")
    'One.\\n\\n    ```pycon\\n    >>> 1 + 1\\n    2\\n    ```\\n\\nTwo.'
    """
    return re.sub(r"^( *)(>>> .*(?:\n\1\S.*)*)", r"\1```pycon\n\1\2\n\1```", text, flags=re.M)
