"""What installing an engine's environment takes: room on the disk, one process at a time, tries."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vllm_environment import EngineEnvironment

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TRIES = 3
PAUSE_S = 10.0
NEEDED_BYTES = 6 << 30  # an environment, and what is downloaded and unpacked on the way


class InstallError(Exception):
    """The environment can't be made here; the message says why."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from making the same environment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install_once(target: EngineEnvironment, name: str, recipe: str, make: Callable[[], None]) -> None:
    """Make an environment, unless it is there by this recipe; one that fails leaves nothing, raises `InstallError`."""
    if target.is_ready and target.stamp.read_text() == recipe:
        return
    print(f"engines: installing {name} into {target.folder}; this takes minutes", flush=True)
    began_s = time.monotonic()
    try:
        make()
    except InstallError:
        shutil.rmtree(target.folder, ignore_errors=True)
        raise
    target.stamp.write_text(recipe)
    print(f"engines: installed in {time.monotonic() - began_s:.0f} s", flush=True)


def make_environment(folder: Path, uv: str, wanted: Sequence[str], *, overrides: Sequence[str]) -> None:
    """Make a virtual environment from nothing; `overrides` are requirements that hold whatever packages ask for."""
    check_disk(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    run([uv, "venv", "--quiet", "--python", PYTHON, str(folder)])
    file = folder / "overrides.txt"
    file.write_text("".join(f"{line}\n" for line in overrides))
    folders = os.environ.get("PIP_FIND_LINKS", "").split()
    run(
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--override", str(file)]
        + [part for each in folders for part in ("--find-links", each)]
        + list(wanted),
        tries=TRIES,
    )


def never(names: Sequence[str]) -> list[str]:
    """Return overrides by which packages are left out, whoever asks for them."""
    return [f'{name}; python_version < "0"' for name in names]


def site_packages(folder: Path) -> Path:
    """Return where an environment has its packages."""
    return folder / "lib" / f"python{PYTHON}" / "site-packages"


def check_disk(folder: Path) -> None:
    """Raise `InstallError` where the disk is too full."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise InstallError(f"{folder} has {free / 2**30:.1f} GiB free, {NEEDED_BYTES >> 30} are needed")


def run(command: list[str], tries: int = 1) -> None:
    """Run a command, again when it fails and may; raises `InstallError` with its last words."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for attempt in range(1, tries + 1):
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        except OSError as error:
            raise InstallError(f"{command[0]}: {error.strerror}; `make setup` installs uv") from error
        if done.returncode == 0:
            return
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        if attempt < tries:
            print(f"engines: try {attempt} of {tries} failed, again in {PAUSE_S:.0f} s\n{words}", file=sys.stderr)
            time.sleep(PAUSE_S)
    raise InstallError(f"`{' '.join(command[:4])} ...` failed:\n{words}")
