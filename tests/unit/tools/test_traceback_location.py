"""What a program in a container says is wrong, as the person's own file and line."""

from __future__ import annotations

from hubenvs.tools.traceback_location import locate

FOLDERS = ("/usr/src/package", "/srv/jupyterhub")


def test_the_last_frame_in_a_folder_of_ours_counts() -> None:
    """Libraries below and above the edited file are not where the fault is."""
    output = """Traceback (most recent call last):
  File "/opt/lib/loader.py", line 658, in load
    exec(code)
  File "/srv/jupyterhub/jupyterhub_config.py", line 10, in <module>
    import helper
  File "/usr/src/package/src/helper.py", line 3, in <module>
    re.compile("(")
  File "/usr/lib/python3.13/re/__init__.py", line 289, in compile
    return _compile(pattern, flags)
re.PatternError: missing ), unterminated subpattern at position 0""".splitlines()
    assert locate(output, FOLDERS) == (
        ("/usr/src/package/src/helper.py", 3),
        "re.PatternError: missing ), unterminated subpattern at position 0",
    )


def test_a_syntax_error_is_where_it_says() -> None:
    """Python prints no traceback header for one that was only compiled."""
    output = [
        '  File "/srv/jupyterhub/common.py", line 4',
        "    def f(:",
        "          ^",
        "SyntaxError: invalid syntax",
    ]
    assert locate(output, FOLDERS) == (("/srv/jupyterhub/common.py", 4), "SyntaxError: invalid syntax")


def test_without_a_frame_of_ours_the_last_line_counts() -> None:
    """A configuration error that the hub reports itself has no file and line, but a reason."""
    output = ["[C 2026-11-23 13:15:37.276 JupyterHub application:119] Bad config: expected an int", ""]
    assert locate(output, FOLDERS) == (None, "Bad config: expected an int")


def test_a_folder_whose_name_begins_alike_is_not_ours() -> None:
    """/usr/src/package-other is another package."""
    output = ['  File "/usr/src/package-other/x.py", line 1, in <module>', "NameError: x"]
    assert locate(output, FOLDERS) == (None, "NameError: x")


def test_silence_is_said_to_be_that() -> None:
    """An error never ends in an empty reason."""
    assert locate([], FOLDERS) == (None, "it gives no reason")
