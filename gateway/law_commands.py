"""`readgate decide`, `readgate replay` and `readgate law ...`: the decision engine at the command line.

Everything works offline on files. Without --law the packs of the distribution are used, and with them, unless --confirmations names
others, the example confirmations that ship beside them: good for a look, not for patients. Every decision names the set it stood on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from compliance.decision import decide, replay
from compliance.facts_schema import instant_text
from compliance.law_change import diff, simulate
from compliance.law_confirmation import confirmation_document, read_confirmations, sign_manifest
from compliance.lawbook import LawBundle, load_law, load_packs, refuse_rollback
from crypto.ed25519 import create_ed25519_key, ed25519_public_pem
from crypto.errors import BadInput, Conflict, ReadgateError

law_app = typer.Typer(name="law", help="The law packs: validate, show, compare, confirm, simulate.", no_args_is_help=True)

LawOption = Annotated[Path | None, typer.Option("--law", help="Folder of law packs; by default those of the distribution.")]
ConfirmationsOption = Annotated[Path | None, typer.Option("--confirmations", help="Signed confirmations; by default those by the packs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_T = TypeVar("_T")
_INPUT_BYTES_MAX = 256 * 1024 * 1024


def mount(app: typer.Typer) -> None:
    """Adds `decide`, `replay` and `law` to `app`."""
    app.command("decide")(decide_command)
    app.command("replay")(replay_command)
    app.add_typer(law_app)


def decide_command(
    files: Annotated[list[str], typer.Argument(metavar="FACTS.json...", help="JSON documents or JSON Lines; - is standard input.")],
    law: LawOption = None,
    confirmations: ConfirmationsOption = None,
) -> None:
    """One decision per document, as one line of JSON each. Exit 2 on bad input."""
    bundle = _load(law, confirmations)
    for name in files:
        for where, document in _documents(name):
            try:
                line = decide(document, bundle).document_bytes()
            except BadInput as problem:
                _stop(f"{where}: {problem}", 2)
            sys.stdout.write(line.decode() + "\n")


def replay_command(
    files: Annotated[list[str], typer.Argument(metavar="DECISION.json...", help="Decisions as printed or exported; - is standard input.")],
    law: LawOption = None,
    confirmations: ConfirmationsOption = None,
) -> None:
    """Exit 0 if every decision comes out byte for byte, 1 if one does not, 2 on bad input."""
    bundle = _load(law, confirmations)
    count = 0
    for name in files:
        for where, line in _lines(name):
            try:
                document = _parse(where, line)
                if not isinstance(document, dict):
                    raise BadInput("not a decision document of this format")
                made = replay(document, bundle)
            except BadInput as problem:
                _stop(f"{where}: {_without(where, problem)}", 2)
            except Conflict as problem:
                _stop(f"{where}: {problem}", 1)
            if made != line.strip():
                _stop(f"{where}: differs from the decision made anew: {_difference(document, made)}", 1)
            count += 1
    typer.echo(f"{count} decision{'s' if count != 1 else ''} reproduced byte for byte", err=True)


@law_app.command("validate")
def validate_command(
    law: LawOption = None,
    confirmations: ConfirmationsOption = None,
    after: Annotated[Path | None, typer.Option("--after", help="Folder of the packs in force: the offered ones must not be older.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read packs and confirmations; exit 2 with file, rule and reason if they cannot be taken."""
    bundle = _load(law, confirmations)
    if after is not None:
        try:
            refuse_rollback(_load(after, None), bundle)
        except Conflict as problem:
            _stop(str(problem), 2)
    drafts = sorted(rule.id for rule in bundle.rules.values() if not rule.is_confirmed)
    if as_json:
        typer.echo(json.dumps({**bundle.stamp_record(), "law": bundle.digest, "rules": len(bundle.rules), "drafts": drafts}))
        return
    by_whom = bundle.confirmations.set_id if bundle.confirmations is not None else "nobody"
    typer.echo(f"{bundle.name} version {bundle.version}: {len(bundle.rules)} rules, {len(drafts)} of them DRAFT; confirmed by {by_whom}")
    typer.echo(f"packs {bundle.manifest.digest}\nlaw   {bundle.digest}")


@law_app.command("show")
def show_command(
    rules: Annotated[list[str] | None, typer.Argument(metavar="[RULE]...", help="Rule ids; by default all.")] = None,
    origin: Annotated[str | None, typer.Option("--origin", help="Only rules about this jurisdiction.")] = None,
    law: LawOption = None,
    confirmations: ConfirmationsOption = None,
    as_json: JsonOption = False,
) -> None:
    """The rules with status, dates and source."""
    bundle = _load(law, confirmations)
    shown = sorted(rules or (rule.id for rule in bundle.rules_for(origin)) if origin else rules or bundle.rules)
    for rule_id in shown:
        if rule_id not in bundle.rules:
            _stop(f"there is no rule {rule_id}; `readgate law show` lists them", 2)
        rule, text = bundle.rules[rule_id], bundle.texts[rule_id]
        status = "CONFIRMED" if rule.is_confirmed else "DRAFT"
        if as_json:
            written = text.model_dump(mode="json", by_alias=True, exclude_none=True)
            typer.echo(json.dumps({**written, "status": status, "digest": rule.digest}, ensure_ascii=False))
            continue
        until = f" to {text.valid_to:%Y-%m-%d}" if text.valid_to else ""
        typer.echo(f"{rule_id:34} {rule.kind:8} {rule.gate} {status:9} {text.valid_from:%Y-%m-%d}{until}  {rule.source}")
        if rules and text.note:
            typer.echo(f"{'':34} {text.note}")


@law_app.command("diff")
def diff_command(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of packs.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Folder of packs.")],
    as_json: JsonOption = False,
) -> None:
    """What AFTER has otherwise; exit 1 if anything differs, 0 if nothing."""
    difference = diff(_load(before, None), _load(after, None))
    if as_json:
        typer.echo(json.dumps(difference.record()))
    else:
        for name, values in difference.record().items():
            for value in values:
                fields = f": {', '.join(difference.changed[value])}" if name == "changed" else ""
                typer.echo(f"{name.replace('_', ' '):14} {value}{fields}")
    raise typer.Exit(0 if difference.is_empty else 1)


@law_app.command("confirm")
def confirm_command(
    role: Annotated[str, typer.Option("--role", help="PRIVACY_OFFICER or COUNSEL.")],
    name: Annotated[str, typer.Option("--name", help="Who signs, as decisions will name them.")],
    key: Annotated[Path, typer.Option("--key", help="The signer's Ed25519 private key (PEM).")],
    into: Annotated[Path, typer.Option("--into", help="The confirmations file, made or completed by this signature.")],
    law: LawOption = None,
    set_id: Annotated[str, typer.Option("--set", help="Name of the confirmation set.")] = "confirmations",
    without: Annotated[list[str] | None, typer.Option("--without", help="Leave this rule a DRAFT (repeatable).")] = None,
) -> None:
    """Sign the packs as they are now, in one role. The second role signs the same file; only then it confirms."""
    bundle = _read_only(law)
    left_out = frozenset(without or ())
    signatures: list[dict[str, Any]] = []
    if into.is_file():
        present = _guard(lambda: read_confirmations(into))
        same = confirmation_document(bundle.manifest, set_id, left_out, [])
        if {k: v for k, v in present.items() if k != "signatures"} == {k: v for k, v in same.items() if k != "signatures"}:
            signatures = [row for row in present["signatures"] if row.get("role") != role]
        else:
            typer.echo(f"{into}: what it confirmed is not what the packs say now; it starts anew with this signature", err=True)
    try:
        private_pem = key.read_bytes()
    except OSError:
        _stop(f"{key}: cannot be read", 2)
    now = datetime.now(UTC).replace(microsecond=0)
    signed = _guard(lambda: sign_manifest(bundle.manifest, set_id, left_out, role, name, now, private_pem))
    document = confirmation_document(bundle.manifest, set_id, left_out, [*signatures, signed])
    _write_whole(into, json.dumps(document, indent=1, sort_keys=True) + "\n", 0o644)
    typer.echo(f"{into}: {len(document['signatures'])} of 2 signatures over {bundle.manifest.digest}")


@law_app.command("key")
def key_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where the new private key goes (mode 0600); it must not exist.")],
) -> None:
    """Make a signer's Ed25519 key; prints the public half."""
    if path.exists():
        _stop(f"{path}: exists; a key is never overwritten", 2)
    private_pem = create_ed25519_key()
    _write_whole(path, private_pem.decode("ascii"), 0o600)
    typer.echo(ed25519_public_pem(private_pem), nl=False)


@law_app.command("simulate")
def simulate_command(
    law: Annotated[Path, typer.Option("--law", help="The packs to try.")],
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[DECISIONS.jsonl]...", help="Recorded decisions; - is standard input.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Instead of files: the decisions on record in this data folder.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="With --data: from then on; ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="With --data: before then; ISO 8601.")] = None,
    confirmations: ConfirmationsOption = None,
    as_known_then: Annotated[
        bool, typer.Option("--as-known-then", help="Leave out rules that nobody knew of yet when a decision was made.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What recorded decisions would have been under other packs; exit 0 whether or not anything changes."""
    bundle = _load(law, confirmations)
    known_at = None if as_known_then else datetime.now(UTC)
    if (data is None) is not bool(files) or (data is None and (since or until)):
        _stop("name either files of decisions or --data, which --since and --until belong to", 2)
    total = changed = 0
    last_at = ""
    for where, document in _recorded(data, since, until) if data is not None else (row for name in files or () for row in _documents(name)):
        total += 1
        if not isinstance(document, dict):
            _stop(f"{where}: not a decision document of this format", 2)
        try:
            changes = list(simulate([document], bundle, known_at))
        except BadInput as problem:
            _stop(f"{where}: {problem}", 2)
        last_at = max(last_at, str(document["facts"].get("at") or ""))
        for change in changes:
            changed += 1
            if as_json:
                typer.echo(json.dumps(change.record()))
            else:
                typer.echo(f"{change.digest[:19]} {change.outcome} -> {change.new_outcome}: {', '.join(change.new_reasons)}")
    typer.echo(f"{changed} of {total} decisions would change", err=True)
    later = sorted(rule.id for rule in bundle.rules.values() if last_at and instant_text(rule.valid_from) > last_at)
    if later:
        typer.echo(f"not tried, because they begin after the last of these decisions: {', '.join(later)}", err=True)


def _recorded(data: Path, since: str | None, until: str | None) -> Iterator[tuple[str, Any]]:
    from gateway.console import instant
    from gateway.law_period import decisions_of_period

    for digest, document in decisions_of_period(data, instant(since) if since else None, instant(until) if until else None):
        yield digest[:19], json.loads(document)


def _load(law: Path | None, confirmations: Path | None) -> LawBundle:
    return _guard(lambda: load_law(law, confirmations))


def _read_only(law: Path | None) -> LawBundle:
    """The packs without looking at confirmations: what is about to be signed may not fit the old ones."""
    return _guard(lambda: load_packs(law))


def _guard(work: Callable[[], _T], where: str = "") -> _T:
    try:
        return work()
    except ReadgateError as problem:
        _stop(f"{where}: {problem}" if where else str(problem), 2)


def _lines(name: str) -> Iterator[tuple[str, bytes]]:
    """(place, text of one JSON document) for each document of a file: one document, or one per line."""
    try:
        content = sys.stdin.buffer.read(_INPUT_BYTES_MAX + 1) if name == "-" else Path(name).read_bytes()
    except OSError:
        _stop(f"{name}: cannot be read", 2)
    if len(content) > _INPUT_BYTES_MAX:
        _stop(f"{name}: is larger than {_INPUT_BYTES_MAX} bytes", 2)
    label = "standard input" if name == "-" else name
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        rows = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
        if not rows:
            _stop(f"{label}: is empty", 2)
        for number, line in rows:
            yield f"{label} line {number}", line
    else:
        yield label, content


def _documents(name: str) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(name):
        try:
            document = _parse(where, line)
        except BadInput as problem:
            _stop(str(problem), 2)
        if isinstance(document, list):
            for number, item in enumerate(document, start=1):
                yield f"{where} item {number}", item
        else:
            yield where, document


def _parse(where: str, line: bytes) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_refuse_repeated)
    except BadInput as problem:
        raise BadInput(f"{where}: {problem}") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{where}: is not JSON") from None


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # JSON leaves it open which of two equal names counts: that must not decide who may read
        raise BadInput("a name stands twice in one object")
    return found


def _without(where: str, problem: BadInput) -> str:
    return str(problem).removeprefix(f"{where}: ")


def _difference(document: dict[str, Any], made: bytes) -> str:
    """Which parts differ; the parts' names, never their values."""
    new = json.loads(made)
    names = sorted(name for name in {**document, **new} if document.get(name) != new.get(name))
    return ", ".join(names) if names else "layout (not canonical JSON)"


def _write_whole(path: Path, text: str, mode: int) -> None:
    """`path` holds all of `text`, or what it held before."""
    temporary = path.with_name(path.name + ".new")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        _stop(f"{path}: cannot be written", 2)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
