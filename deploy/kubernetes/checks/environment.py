"""The virtual environment that the check runs in, with what it needs from PyPI."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from . import models

PACKAGES = ["PyYAML==6.0.4", "jsonschema==4.26.0", "kubernetes-validate==1.37.0", *models.PACKAGES]


def enter(root):
    """Goes on in the virtual environment, from the beginning; answers what is wrong where there can be none."""
    place = root / "target" / "kubernetes-check"
    if Path(sys.prefix) == place:
        return None
    python, mark, wanted = place / "bin" / "python", place / "packages", "\n".join(PACKAGES)
    try:
        if not (mark.exists() and mark.read_text() == wanted):
            venv.create(place, with_pip=True)
            words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
            subprocess.run(words, check=True)
            mark.write_text(wanted)
        sys.stdout.flush()
        os.execv(python, [python, *sys.argv])
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no virtual environment with {', '.join(PACKAGES)}: {error}"
