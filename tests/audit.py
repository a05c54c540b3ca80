"""What pip-audit finds about the packages in constraints.txt: status 1 and a line for each known weakness; one sentence where PyPI cannot be asked."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / ".cache" / "audit" / "bin" / "pip-audit"
OPTIONS = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]


def judged(report):
    "Lines to print, and the exit status, from what pip-audit says."
    known = [package for package in report["dependencies"] if "skip_reason" not in package]
    weak = [(p["name"], p["version"], each) for p in known for each in p["vulns"]]
    if not known:
        return ["PyPI does not answer: nothing was audited"], 0
    lines = [
        f"{name} {version}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for name, version, each in weak
    ]
    return [*lines, f"{len(known)} packages audited, {len(weak)} known weaknesses"], int(bool(weak))


def main():
    if not TOOL.exists():
        print("pip-audit could not be installed: nothing was audited")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        pins.write("".join(line for line in lines if not line.startswith("#")))
        pins.flush()
        done = subprocess.run([TOOL, *OPTIONS, "-r", pins.name], capture_output=True, text=True)
    try:
        lines, status = judged(json.loads(done.stdout))
    except ValueError:
        lines, status = [f"nothing was audited: {done.stderr.strip().splitlines()[-1:]}"], 0
    print("\n".join(lines))
    sys.exit(status)


if __name__ == "__main__":
    main()
