"""`make audit`: known vulnerabilities of everything in this environment, asked by pip-audit.

Exit code 1 if there are any, 2 where the advisory service cannot be asked.
"""

import json
import subprocess
import sys


def main() -> int:
    command = ["pip-audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        packages = []
    asked = [package for package in packages if "vulns" in package]
    if not asked:
        why = f"it knows none of {len(packages)} packages"
        if not packages:
            why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"error: the advisory service cannot be asked from here: {why}", file=sys.stderr)
        return 2
    vulnerable = [package for package in asked if package["vulns"]]
    for package in vulnerable:
        for one in package["vulns"]:
            mended = ", ".join(one["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']}, mended in {mended}")
    print(
        f"{len(vulnerable)} of {len(asked)} packages have known vulnerabilities;"
        f" {len(packages) - len(asked)} are unknown to the service"
    )
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
