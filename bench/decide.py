"""How long a decision takes: one, with the full law, its record and digest; and one study against 1,000 readers.

    python -m bench.decide [--rounds 20] [--readers 1000] [--json FILE] [--check]

Times are processor seconds of this one process, so that a busy machine does not show; the wall clock stands beside them.
--check exits 1 where the median decision takes more than 1 ms or the 1,000 readers more than 300 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlmodel import select

from compliance.credential import Reader
from compliance.database import Database
from compliance.decision import decide, eligible_readers
from compliance.lawbook import load_law
from gateway.schema import migrate
from tests.decision_cases import base_facts, decision_cases
from tests.reading_rows import ReadingRows
from worklist.routing import decide_for_readers, route

DECISION_SECONDS_MAX = 0.001
ELIGIBILITY_SECONDS_MAX = 0.300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    law = load_law()
    facts = [case.facts for case in decision_cases()]
    for document in facts:
        decide(document, law).document_bytes()
    decisions = []
    for _ in range(options.rounds):
        decisions += [_seconds(lambda document=document: decide(document, law).document_bytes()) for document in facts]
    study, readers = _eligibility_question(options.readers)
    eligibility = [_seconds(lambda: eligible_readers(study, readers, law)) for _ in range(5)]
    alike = _alike(readers)
    of_a_kind = [_seconds(lambda: eligible_readers(study, alike, law)) for _ in range(5)]
    recorded = [_seconds(lambda: [found.document_bytes() for found in eligible_readers(study, readers, law)]) for _ in range(5)]
    result = {
        "rules": len(law.rules),
        "decisions": len(decisions),
        "decision_ms_median": round(_median(decisions) * 1000, 3),
        "decision_ms_p99": round(statistics.quantiles([cpu for cpu, _ in decisions], n=100)[98] * 1000, 3),
        "decision_wall_ms_median": round(statistics.median(wall for _, wall in decisions) * 1000, 3),
        "readers": options.readers,
        # Every reader with dates of their own, so that no two are weighed as one.
        "eligibility_ms_median": round(_median(eligibility) * 1000, 1),
        "eligibility_wall_ms_median": round(statistics.median(wall for _, wall in eligibility) * 1000, 1),
        "eligibility_of_50_kinds_wall_ms_median": round(statistics.median(wall for _, wall in of_a_kind) * 1000, 1),
        "eligibility_with_records_wall_ms_median": round(statistics.median(wall for _, wall in recorded) * 1000, 1),
        **_routing(options.readers),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    is_good = _median(decisions) <= DECISION_SECONDS_MAX and _median(eligibility) <= ELIGIBILITY_SECONDS_MAX
    return 0 if is_good or not options.check else 1


def _seconds(work: Any) -> tuple[float, float]:
    """(processor seconds, wall seconds) of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def _median(measured: list[tuple[float, float]]) -> float:
    return statistics.median(cpu for cpu, _ in measured)


def _eligibility_question(count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An Irish study, and readers from all the acceptance cases: fifty firms, and dates that are each reader's own."""
    study = base_facts()
    study["action"] = "ROUTE"
    cases = decision_cases()
    readers = []
    for number in range(count):
        facts = json.loads(json.dumps(cases[number % len(cases)].facts))
        for credential in facts["reader"]["credentials"]:
            if "psv_at" in credential:
                credential["psv_at"] = f"2026-05-{1 + number % 28:02}T{number // 28 % 24:02}:{number // 672 % 60:02}:00Z"
        # A firm has its papers once, whoever reads for it.
        readers.append({"reader": {**facts["reader"], "id": f"r{number}"}, "evidence": cases[number % len(cases)].facts["evidence"]})
    return study, readers


def _routing(count: int) -> dict[str, float]:
    """One study routed to `count` readers of one site on SQLite: from the registers alone, and with every decision recorded and logged."""
    with tempfile.TemporaryDirectory() as folder:
        rows = ReadingRows(Database(f"sqlite:///{folder}/bench.sqlite3"))
        migrate(rows.database)
        rows.add_site(*(f"r{number}" for number in range(count)))
        decided, routed = [], []
        for number in range(3):
            study = rows.add_study(patient=f"PSEUDONYM-{number}")
            with rows.database.reading() as session:
                readers = session.exec(select(Reader)).all()
                decided.append(_seconds(partial(decide_for_readers, session, rows.law, study, readers, now=rows.at)))
            started = time.perf_counter()
            with rows.database.transaction() as session:
                route(session, rows.law, study, now=rows.at, new_uid=rows.new_uid)
            routed.append(time.perf_counter() - started)
    return {
        "eligibility_from_the_registers_wall_ms_median": round(statistics.median(wall for _, wall in decided) * 1000, 1),
        "routing_recorded_and_logged_wall_ms_median": round(statistics.median(routed) * 1000, 1),
    }


def _alike(readers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many readers, of the first fifty kinds."""
    return [{**readers[number % 50], "reader": {**readers[number % 50]["reader"], "id": f"r{number}"}} for number in range(len(readers))]


if __name__ == "__main__":
    sys.exit(main())
