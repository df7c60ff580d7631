"""python -m bench [--full] [NAME...] [-- ARGUMENT...]: the measurements by name, each in a process of its own, small unless --full.

They print numbers and judge nothing. Arguments after -- go to the one program named: python -m bench ingest -- --work ct --rounds 7
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: name -> (arguments of a short run, arguments of a full one)
PROGRAMS: dict[str, tuple[list[str], list[str]]] = {
    "ingest": (["--work", "ct,mr,mg", "--associations", "1,4", "--rounds", "3"], []),
    "worklist_latency": (["--slices", "100", "--rounds", "1"], []),
    "seal": ([], []),
    "decide": (["--rounds", "5", "--readers", "200"], []),
    "deidentify": (["--ct", "50", "--mr", "50"], []),
    "burned_in": ([], ["--full"]),
}


def main(arguments: list[str]) -> int:
    own, rest = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]) if "--" in arguments else (arguments, [])
    is_full = "--full" in own
    names = [each for each in own if each != "--full"] or [name for name in PROGRAMS if (HERE / f"{name}.py").exists()]
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown or (rest and len(names) != 1):
        print(f"usage: {(__doc__ or '').splitlines()[0]}\nnames: {', '.join(PROGRAMS)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        short, full = PROGRAMS[name]
        print(f"== {name}", flush=True)
        # As modules from the top, so that they find the packages and the tests' builders, installed or not.
        command = [sys.executable, "-m", f"bench.{name}", *(rest or (full if is_full else short))]
        failed |= subprocess.run(command, cwd=HERE.parent).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
