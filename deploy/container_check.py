"""python -m deploy.container_check: execute deploy/Dockerfile without a Docker engine, and run the result confined like a container.

    make a Bento -> each stage's COPY and RUN in a root directory of its own (this machine's /usr and Python stand for the base image)
    -> the final stage's ENTRYPOINT as process 1, user 10001, no capability to gain, read-only root with a tmpfs at /tmp, a network of its
    own without a way out -> HEALTHCHECK -> /readyz is 200 -> a prediction -> SIGTERM -> exit code 0

Needs root, for namespaces and mounts, and Python 3.11. Installing the requirements takes minutes and needs the package index; `--reuse`
mounts the packages of the running environment instead of that step. Exit codes: 0 every step works, 1 a step fails, 2 this machine cannot
run the check.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.dockerfile import Instruction, Stage, read, substituted

ROOT = Path(__file__).parents[1]
DOCKERFILE = Path(__file__).with_name("Dockerfile")
CANNOT = 2
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "etc")
_DEVICES = ("null", "zero", "random", "urandom")
_PATH = "/usr/local/bin:/usr/bin:/bin"
_READY_S = 300.0
_ASK = """
import json, sys, urllib.request
body = open(sys.argv[1], "rb").read()
request = urllib.request.Request("http://127.0.0.1:3000/predict", body, {"content-type": "application/json"})
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
_READY = "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/readyz', timeout=3)"
_WRITE = "open('/opt/hauberk/written', 'w')"


@dataclass
class Tree:
    """A root file system: `path` holds the files that the stage adds; the base is this machine's, mounted read-only.

    Every command runs in a mount namespace of its own, so that nothing stays mounted.
    """

    path: Path
    variables: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    packages: Path | None = None

    def __post_init__(self) -> None:
        for name in (*_SYSTEM, "opt", "tmp", "proc", "dev", "run"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        for name in _DEVICES:
            (self.path / "dev" / name).touch()

    def mounts(self) -> list[str]:
        """Shell lines that mount the base, with this Python in the place of the image's."""
        lines = ["mount --make-rprivate /"]
        lines += [f"mount --rbind -o ro /{name} {self.path}/{name}" for name in _SYSTEM if Path(f"/{name}").exists()]
        lines += [f"mount --bind -o ro {sys.base_prefix} {self.path}/usr/local"]
        lines += [f"mount --bind /dev/{name} {self.path}/dev/{name}" for name in _DEVICES]
        for installed in self.path.glob("opt/*/venv/lib/python3*/site-packages") if self.packages else ():
            lines.append(f"mount --bind -o ro {self.packages} {installed}")
        return [*lines, f"mount -t proc proc {self.path}/proc"]

    def run(self, command: str) -> None:
        """Execute a RUN instruction, as root in the shell. Raises: CalledProcessError."""
        inside = self.within(self.directory)
        inside.mkdir(parents=True, exist_ok=True)
        words = [*self.environment(), "bash", "-o", "pipefail", "-c"]
        change = f"cd {self.directory} && {command}"
        script = "\n".join(["set -e", *self.mounts(), _quoted(["chroot", str(self.path), *words, change])])
        subprocess.run(["unshare", "-m", "bash", "-c", script], check=True)  # noqa: S603, S607

    def environment(self, directory: str = "/") -> list[str]:
        """The words before a command that set the image's variables and no others; LD_LIBRARY_PATH is for this machine's Python."""
        return [
            "/usr/bin/env",
            "-i",
            f"--chdir={directory}",
            f"PATH={_PATH}",
            "LD_LIBRARY_PATH=/usr/local/lib",
            *_assignments(self.variables),
        ]

    def within(self, path: str) -> Path:
        """The path on this machine of a path in the image; a relative one starts at the working directory."""
        return self.path / os.path.join(self.directory, path).lstrip("/")


def _assignments(variables: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _quoted(words: Sequence[str]) -> str:
    return shlex.join(words)


class Build:
    """The execution of a Dockerfile's stages."""

    def __init__(self, context: Path, directory: Path, *, reuse: bool) -> None:
        self._context, self._directory, self._reuse = context, directory, reuse
        self._trees: dict[str, Tree] = {}

    def stage(self, stage: Stage) -> Tree:
        """Execute one stage; later stages can copy from its tree."""
        tree = self._trees[stage.name] = Tree(self._directory / f"stage-{stage.name}")
        tree.packages = Path(sysconfig.get_path("purelib")) if self._reuse else None
        for instruction in stage.instructions:
            print(f"{stage.name}: {instruction.name} {instruction.text[:110]}", flush=True)
            self._carry_out(tree, instruction)
        return tree

    def _carry_out(self, tree: Tree, instruction: Instruction) -> None:
        if instruction.name in ("ENV", "ARG"):
            tree.variables |= {name: substituted(value, tree.variables) for name, value in instruction.pairs.items()}
        elif instruction.name == "WORKDIR":
            tree.directory = os.path.join(tree.directory, instruction.text)
            tree.within("").mkdir(parents=True, exist_ok=True)
        elif instruction.name == "COPY":
            self._copy(tree, instruction.text.split())
        elif instruction.name == "RUN":
            installs = "pip" in instruction.text and "install" in instruction.text
            tree.run("python -m venv --without-pip venv" if self._reuse and installs else instruction.text)

    def _copy(self, tree: Tree, words: list[str]) -> None:
        source: Path = self._context
        copy: Callable[[str, str], object] = shutil.copy2
        if words[0].startswith("--from="):
            copy = _link
            source = self._trees[words.pop(0).removeprefix("--from=")].path
        what, to = source / words[0].lstrip("/"), tree.within(words[1])
        if what.is_dir():
            shutil.copytree(what, to, symlinks=True, dirs_exist_ok=True, copy_function=copy)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(what, to)


def _link(source: str, target: str) -> None:
    """Make a hard link where possible, to avoid copying gigabytes."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def container(tree: Tree, final: Stage, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the final stage; yields the `unshare` process, whose only child is the container's process 1."""
    user = final.last("USER").text
    command = final.last("ENTRYPOINT").exec_form or []
    words = [*tree.environment(tree.directory), *command]
    confined = ["setpriv", "--no-new-privs", "--bounding-set=-all,+setuid,+setgid,+sys_chroot"]
    start = [*confined, "chroot", f"--userspec={user}", "--groups=", str(tree.path), *words]
    lines = ["set -e", "ip link set lo up", f"mount --rbind {tree.path} {tree.path}", *tree.mounts()]
    lines += [f"mount -t tmpfs -o mode=1777,size=256m tmpfs {tree.path / 'tmp'}", f"mount -o remount,ro,bind {tree.path}"]
    script = "\n".join([*lines, f"exec {_quoted(start)}"])
    with log.open("wb") as written:
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        process = subprocess.Popen([*namespaces, "bash", "-c", script], stdout=written, stderr=written)  # noqa: S603
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


def inside(process: subprocess.Popen[bytes], tree: Tree, user: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a running container, as its user."""
    enter = ["nsenter", "-t", str(process_one(process)), "-m", "-n", "chroot", f"--userspec={user}", "--groups=", str(tree.path)]
    return subprocess.run([*enter, *tree.environment(), *command], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


def process_one(process: subprocess.Popen[bytes]) -> int:
    """The process id, on this machine, of the container's process 1. Raises: ProcessLookupError: it has ended."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    give_up = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < give_up:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.05)
    raise ProcessLookupError("process 1 has ended")


def check(*, reuse: bool) -> list[str]:
    """Build and run; returns the problems, none if every step works."""
    with TemporaryDirectory(dir=ROOT / "build" if reuse else None) as name:
        directory = Path(name)
        directory.chmod(0o755)
        stages = read(DOCKERFILE)
        build = Build(bento(directory / "bentos"), directory, reuse=reuse)
        trees = [build.stage(stage) for stage in stages]
        return _use(trees[-1], stages[-1], directory / "log")


def _use(tree: Tree, final: Stage, log: Path) -> list[str]:
    user = final.last("USER").text
    python = (final.last("ENTRYPOINT").exec_form or [""])[0]
    example = "/opt/hauberk/bento/src/models/bundles/mnist/example.json"
    health = Instruction("CMD", final.last("HEALTHCHECK").text.partition("CMD ")[2]).exec_form or []
    with container(tree, final, log) as process:
        started, give_up = time.monotonic(), time.monotonic() + _READY_S
        while not _ready(process, tree, user, python):
            if process.poll() is not None or time.monotonic() > give_up:
                return [f"not ready:\n{log.read_text(errors='replace')[-3000:]}"]
            time.sleep(0.5)
        print(f"ready after {time.monotonic() - started:.0f} s", flush=True)
        answer = inside(process, tree, user, [python, "-c", _ASK, example])
        healthy = inside(process, tree, user, health)
        written = inside(process, tree, user, [python, "-c", _WRITE])
        os.kill(process_one(process), signal.SIGTERM)
        code = process.wait(60)
    print(answer.stdout.strip(), flush=True)
    found = {
        f"the prediction failed: {answer.stderr[-500:]}": answer.returncode or not _predicted(answer.stdout),
        f"HEALTHCHECK failed: {healthy.stderr[-500:]}": healthy.returncode,
        "the root file system can be written": "Read-only file system" not in written.stderr,
        f"expected exit code 0 after SIGTERM, got {code}": code,
    }
    return [text for text, wrong in found.items() if wrong]


def _ready(process: subprocess.Popen[bytes], tree: Tree, user: str, python: str) -> bool:
    try:
        return inside(process, tree, user, [python, "-c", _READY]).returncode == 0
    except ProcessLookupError:
        return False


def _predicted(answer: str) -> bool:
    try:
        return bool(json.loads(answer)["predictions"][0]["label"] == "7")
    except (ValueError, LookupError):
        return False


def bento(home: Path) -> Path:
    """Build a Bento and return its directory."""
    environment = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "bentoml", "build"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    (path,) = (path for path in (home / "bentos" / "hauberk").iterdir() if path.is_dir())
    return path


def why_not() -> str:
    """The reason why this machine cannot run the check; empty if it can."""
    if os.geteuid():
        return "expected to be root, for mounts and namespaces"
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "chroot", "ip") if shutil.which(tool) is None]
    if missing:
        return f"expected the programs of util-linux and iproute2, {', '.join(missing)} not found"
    if sys.version_info[:2] != (3, 11):
        return f"expected Python 3.11, which the requirements are locked for, got {sys.version.split()[0]}"
    if subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False).returncode:  # noqa: S607
        return "this machine allows no namespaces"
    return ""


def main() -> int:
    """Run the check and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reuse", action="store_true", help="copy this environment's packages instead of installing the Bento's")
    given = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"container-check: {reason}", file=sys.stderr)
        return CANNOT
    (ROOT / "build").mkdir(exist_ok=True)
    problems = check(reuse=given.reuse)
    print("\n".join(problems) or "every step of deploy/Dockerfile works")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
