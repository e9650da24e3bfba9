"""python -m deploy.audit REQUIREMENTS: known vulnerabilities of the packages in a file of requirements, by pip-audit.

pip-audit also exits with 0 if its service knows none of the packages, as with a mirror of the index; here that is an error. Exit codes:
0 no vulnerability is known, 1 some are, 2 pip-audit is not installed, 3 the service could not be reached, or did not answer for every
package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

VULNERABLE, CANNOT, UNREACHED = 1, 2, 3
VERSION = "2.10.1"
_OPTIONS = ("--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "15")


def command(requirements: str) -> list[str] | None:
    """The command line: pip-audit of this environment, else one that uv fetches; None without both."""
    options = [*_OPTIONS, "--requirement", requirements]
    service = os.environ.get("PIP_AUDIT_VULNERABILITY_SERVICE")
    options += ["--vulnerability-service", service] if service else []
    if importlib.util.find_spec("pip_audit"):
        return [sys.executable, "-m", "pip_audit", *options]
    uv = shutil.which("uv")
    return [uv, "tool", "run", f"pip-audit=={VERSION}", *options] if uv else None


def verdict(report: str, said: str) -> tuple[int, str]:
    """The exit code and the text to print, from pip-audit's JSON and its standard error."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, LookupError):
        return (
            UNREACHED,
            f"audit: the vulnerability service could not be reached, so that no package was checked. pip-audit said:\n{_end(said)}",
        )
    found = [f"{each['name']} {each['version']}: {_ids(each)}" for each in packages if each.get("vulns")]
    unasked = [each["name"] for each in packages if "skip_reason" in each]
    lines = [*found]
    if unasked or not packages:
        lines.append(f"audit: the service did not answer for {len(unasked)} of {len(packages)} packages: {', '.join(unasked)}")
    if found:
        return VULNERABLE, "\n".join(lines)
    if unasked or not packages:
        return UNREACHED, "\n".join(lines)
    return 0, f"audit: no vulnerability is known of {len(packages)} packages"


def _ids(package: dict[str, Any]) -> str:
    return "; ".join(f"{known['id']}, fixed in {' '.join(known['fix_versions']) or 'none'}" for known in package["vulns"])


def _end(said: str) -> str:
    return "\n".join(said.strip().splitlines()[-3:])


def main(arguments: Sequence[str]) -> int:
    """Run pip-audit and print its verdict."""
    if len(arguments) != 1:
        print("audit: expected one file of requirements; use: python -m deploy.audit requirements.runtime.lock", file=sys.stderr)
        return CANNOT
    words = command(arguments[0])
    if words is None:
        print("audit: expected pip-audit or uv, neither is installed; pip install pip-audit", file=sys.stderr)
        return CANNOT
    ran = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    code, text = verdict(ran.stdout, ran.stderr)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
