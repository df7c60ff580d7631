"""A score as a summary, as text and as an exit code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench.deid_score.answer_key import LETTERS
from bench.deid_score.scoring import Score
from bench.deid_score.seeded_set import SeededSet
from bench.deid_score.tools import Result

REQUIRED_MIN, RETAINED_MIN, NEEDLESS_MAX = 0.9995, 0.999, 0.02


def summary_of(score: Score, result: Result, made: SeededSet) -> dict[str, Any]:
    """Plain numbers, fit for JSON."""
    verdict = score.verdict
    required, passed = sum(verdict.required.values()), sum(verdict.passed.values())
    to_keep, kept = sum(verdict.to_keep.values()), sum(verdict.kept.values())
    generated = sum(carrier.slot != "corpus" for carrier in made.carriers.values())
    needless = sum(count for slot, count in verdict.needlessly_held.items() if not slot.startswith("corpus"))
    return {
        "tool": f"{result.tool} {result.version}".strip(),
        "instances": len(made.carriers),
        "passed on": len(result.outputs),
        "held": sum(verdict.held.values()),
        "held by reason": dict(verdict.held.most_common()),
        "held by slot": {slot: f"{count}/{verdict.carriers[slot]}" for slot, count in sorted(verdict.held_by_kind.items())},
        "needlessly held": dict(verdict.needlessly_held.most_common(40)),
        "needless share of generated": needless / max(1, generated),
        "lost": verdict.lost,
        "unreadable": verdict.unreadable,
        "leaks": {letter: verdict.leaks[letter] for letter in LETTERS},
        "leaks by slot": dict(verdict.leaks_by_slot.most_common()),
        "required": required,
        "required passed": passed,
        "retain": to_keep,
        "retained": kept,
        "required by slot": {slot: (verdict.passed[slot], count) for slot, count in sorted(verdict.required.items())},
        "retained by slot": {slot: (verdict.kept[slot], count) for slot, count in sorted(verdict.to_keep.items())},
        "structure errors": sum(score.structure.errors.values()),
        "structure checked": score.structure.checked,
        "structure by slot": dict(score.structure.by_slot.most_common()),
        "structure by error": dict(score.structure.errors.most_common(30)),
        "dciodvfy": score.structure.program is not None,
        "seconds": round(result.seconds, 1),
        "failures": dict(verdict.failures.most_common(60)),
    }


def wilson(passed: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if not total:
        return 0.0, 1.0
    z, share = 1.96, passed / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - spread) / (1 + z * z / total), (middle + spread) / (1 + z * z / total)


def printed(summaries: list[dict[str, Any]], missing: list[str], machine: Mapping[str, str], made: SeededSet) -> str:
    """The tables, side by side where tools compare, the product's details below."""
    lines = [f"{name}: {value}" for name, value in machine.items()]
    if made.left_out:
        lines.append("files that could not be seeded: " + ", ".join(f"{count} {why}" for why, count in made.left_out.most_common()))
    heads = [summary["tool"] for summary in summaries] + missing
    lines += ["", f"{'':36s}" + "".join(f"{head:>26s}" for head in heads)]

    def line(name: str, values: list[str]) -> None:
        lines.append(f"{name:36s}" + "".join(f"{value:>26s}" for value in values + ["not installed"] * len(missing)))

    line(
        "instances passed on / held / lost",
        [f"{one['passed on']} / {one['held']} / {one['lost'] + one['unreadable']}" for one in summaries],
    )
    line("leaks", [str(sum(one["leaks"].values())) for one in summaries])
    for letter, name in LETTERS.items():
        line(f"   {letter} {name}", [str(one["leaks"][letter]) for one in summaries])
    line(
        "leaks per 1,000 instances passed on", [f"{1000 * sum(one['leaks'].values()) / max(1, one['passed on']):.1f}" for one in summaries]
    )
    line("required actions", [_share(one["required passed"], one["required"]) for one in summaries])
    line("retained", [_share(one["retained"], one["retain"]) for one in summaries])
    line("structure errors added", [f"{one['structure errors']} in {one['structure checked']}" for one in summaries])
    line("seconds, start and OCR included", [f"{one['seconds']}" for one in summaries])
    slots = sorted({slot for one in summaries for slot in one["required by slot"]})
    lines += ["", "required actions by slot"]
    for slot in slots:
        line(f"   {slot}", [_count(one["required by slot"].get(slot)) for one in summaries])
    lines.append("retained by slot")
    for slot in sorted({slot for one in summaries for slot in one["retained by slot"]}):
        line(f"   {slot}", [_count(one["retained by slot"].get(slot)) for one in summaries])
    for summary in summaries:
        low, high = wilson(summary["required passed"], summary["required"])
        lines += ["", f"{summary['tool']}: required actions {100 * low:.3f} to {100 * high:.3f} % (95 %)"]
        for name in (
            "held by reason",
            "held by slot",
            "needlessly held",
            "leaks by slot",
            "structure by slot",
            "structure by error",
            "failures",
        ):
            if summary[name] and (summary is summaries[0] or name in ("held by reason", "leaks by slot")):
                lines.append(f"  {name}")
                lines += [f"    {count!s:>8s}  {what}" for what, count in summary[name].items()]
    return "\n".join(lines)


def _share(passed: int, total: int) -> str:
    return f"{passed}/{total} {100 * passed / max(1, total):.3f} %"


def _count(pair: tuple[int, int] | None) -> str:
    return "" if pair is None else f"{pair[0]}/{pair[1]}"


def gate(summary: Mapping[str, Any]) -> int:
    """0 if every target is met; else 1."""
    is_met = (
        not Counter(summary["leaks"]).total()
        and summary["required passed"] >= REQUIRED_MIN * summary["required"]
        and summary["retained"] >= RETAINED_MIN * summary["retain"]
        and not summary["structure errors"]
        and not summary["lost"] + summary["unreadable"]
        and summary["needless share of generated"] <= NEEDLESS_MAX
    )
    return 0 if is_met else 1
