"""What the simulated robot refuses, and texts that fit into one line."""


class Refused(ValueError):
    """A parameter, an episode, a fault or a command is invalid."""


def one_line(text):
    """The text without control characters, at most 300 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:300]


def is_text(value):
    """Whether a ROS string can hold it: JSON has characters that UTF-8 has not."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)
