"""Whether a stranger's package is installed beside this one: `t2` on the package index is not this project.

This distribution is `transformer2`, and the package that it brings is `t2`, so that both write into one folder.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

OWN, STRANGER = "transformer2", "t2"


def stranger_beside() -> str | None:
    """A sentence where the distribution `t2` has put files into the folder t2/; None where none has.

    An editable copy of this project from before it was renamed has none there.
    """
    try:
        found = distribution(STRANGER)
    except PackageNotFoundError:
        return None
    if not any(path.parts[0] == STRANGER for path in found.files or ()):
        return None
    return (
        f"The package {STRANGER} {found.version} of the package index is installed here. It is another project, and "
        f"has put files into the folder {STRANGER}/ of {OWN}: pip uninstall {STRANGER}, then pip install "
        f"--force-reinstall --no-deps {OWN}."
    )
