"""A virtual environment for each peer, made on first use in the user's cache.

Each has its own packages in front of this environment's: torch, diffusers and ONNX Runtime are the same for all.
"""

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


def environment(name: str) -> Path:
    """The environment's folder; its packages are those of `requirements/NAME.txt`.

    Raises:
        subprocess.CalledProcessError: pip could not install them; its output says why.
    """
    pins = (REQUIREMENTS / f"{name}.txt").read_bytes()
    ours = sysconfig.get_path("purelib")
    key = hashlib.sha256(pins + f"{sys.executable} {sys.version} {ours}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiltserve" / "peers"
    folder = cache / f"{name}-{key}"
    done = folder / "installed"
    if not done.exists():
        print(f"installing {name} in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "-r", str(REQUIREMENTS / f"{name}.txt")], check=True, stdout=sys.stderr)
        (packages(folder) / "ours.pth").write_text(ours + "\n")
        done.touch()
    return folder


def packages(folder: Path) -> Path:
    """Where the environment's own packages are."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
