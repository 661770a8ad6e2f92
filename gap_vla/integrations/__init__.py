"""GAP in other people's training scripts, without an edit of them: docs/ANY_POLICY.md has the calls.

Each replaces names in the one script that it is given, and loads nothing of the project itself.
"""
