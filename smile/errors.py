"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """A mistake in a command, a config, or a file.

    The message is one line that names the value, where it stands, what was expected and what to do
    next. The scripts print it without a traceback and exit with status 2.
    """


def first_few(problems: list[str], count: int = 3) -> str:
    """The first `count` problems in order, and how many more there are."""
    more = f"; and {len(problems) - count} more" if len(problems) > count else ""
    return "; ".join(sorted(problems)[:count]) + more
