"""Seeds identities into DICOM instances, has tools de-identify them and counts what is left, what is lost and what is broken.

usage: python -m bench.deid_score [--patients 4] [--corpus DIR] [--others PYTHON] [--seed N] [--work DIR] [--json FILE] [--no-structure]

The set, the key and the judge are of our own making (bench/README.md): generated instances of each kind, and with --corpus every file of
that folder that pydicom reads. `--others` names the Python in which dicom-anonymizer and deid are installed. Exit 0 if readgate has no
leak, 99.95 % of required actions, 99.9 % retention, no new structure error and 2 % needless holds at most.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from bench.deid_score.report import gate, printed, summary_of
from bench.deid_score.scoring import score
from bench.deid_score.seeded_set import SetSize, seed
from bench.deid_score.tools import run_other, run_readgate
from bench.machine import describe

_SECRET = b"the secret of the score, 32 bytes"
OTHERS = ("dicom-anonymizer", "deid")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--others", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-structure", action="store_true")
    arguments = parser.parse_args()
    if arguments.corpus is not None and not arguments.corpus.is_dir():
        print(f"{arguments.corpus} is no folder", file=sys.stderr)
        return 2
    work = arguments.work or Path(tempfile.mkdtemp(prefix="deid-score-"))
    machine = describe(Path("."))
    try:
        made = seed(work / "source", SetSize(arguments.patients), arguments.seed, arguments.corpus)
        print(f"{len(made.carriers)} instances seeded", file=sys.stderr, flush=True)
        results = {"readgate": run_readgate(made, work / "readgate", _SECRET)}
        missing = []
        for tool in OTHERS:
            result = run_other(tool, arguments.others, made, work / tool)
            if result is None:
                missing.append(tool)
            else:
                results[tool] = result
        summaries = [summary_of(score(made, result, structure=not arguments.no_structure), result, made) for result in results.values()]
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(printed(summaries, missing, machine, made))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "tools": summaries}, indent=1) + "\n", encoding="utf-8")
    return gate(summaries[0])


if __name__ == "__main__":
    sys.exit(main())
