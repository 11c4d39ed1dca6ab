"""The errors a user can meet: one clear line each, and an exit code that tells a script what to do next."""


class SkyloomError(Exception):
    """Base of all errors skyloom raises on purpose.

    The message says what is wrong, which file or node it concerns, the numbers, and the remedy.
    """

    exit_code = 2
    """Of the command line. What is refused before anything runs is 2: somebody has to change something."""


class ConfigError(SkyloomError):
    """A workflow, parameter or command line that cannot mean anything."""


class DataError(SkyloomError):
    """Input that cannot be used: unreadable, truncated, contradictory or empty."""


class CapacityError(SkyloomError):
    """Work that does not fit in the memory or on the disk it was given."""


class ClusterError(ConfigError):
    """Workers or a scheduler that are not there, were lost, or run another skyloom."""

    exit_code = 6


class NotYetKnown(SkyloomError):
    """A node whose shape depends on what an earlier one will find."""


def prefixed(problem: SkyloomError, where: str) -> SkyloomError:
    """The same kind of error with its place in front; a subclass may take other arguments than a message."""
    kinds = (ClusterError, ConfigError, DataError, CapacityError, NotYetKnown)
    kind = next((k for k in kinds if isinstance(problem, k)), SkyloomError)
    placed = kind(f"{where}: {problem}")
    placed.exit_code = problem.exit_code
    return placed
