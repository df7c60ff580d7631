"""The law in force: packs read from `compliance/law/*.yaml`, validated, digested, and joined with who confirmed them.

- A pack that is malformed is refused whole; the message names file, rule and reason.
- The bundle's digest depends on what the packs say, not on files, order or layout.
- Packs that nobody confirmed are all DRAFT: they restrict and never grant.
- A version never goes back (`refuse_rollback`), and a change that cannot be taken leaves the last good bundle in force (`reload_law`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compliance.jurisdiction import CODE, Membership, Territory, compile_territory, is_known
from compliance.law_confirmation import Confirmations, LawManifest, verify_confirmations
from compliance.live_law import LiveLaw, live_law
from compliance.rule import Instant, Rule, RuleText, Sets, compile_rule
from crypto.canonical import digest
from crypto.errors import BadInput, Conflict

#: The packs of the distribution, and the example confirmations that go with them and with nothing else.
SHIPPED_LAW = Path(__file__).parent / "law"
BUNDLE_FILE = "bundle.yaml"
DEMO_CONFIRMATIONS = "demo-confirmations.json"
OWN_CONFIRMATIONS = "confirmations.json"
_PACK_BYTES_MAX = 4 * 1024 * 1024
_PACK_VALUES_MAX = 200_000


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Member(_Model):
    code: str
    since: Instant | None = None
    until: Instant | None = None


class _BundleText(_Model):
    bundle: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    version: Annotated[int, Field(gt=0)]
    title: str
    sets: dict[str, list[_Member]]
    regimes: dict[str, list[str]]


@dataclass(frozen=True)
class LawBundle:
    """Rules with their status. `digest` covers packs and confirmations; decisions under equal digests are equal."""

    name: str
    version: int
    digest: str
    manifest: LawManifest
    confirmations: Confirmations | None
    rules: Mapping[str, Rule]
    texts: Mapping[str, RuleText]
    regimes: Mapping[str, Territory]
    sets: Sets
    _by_origin: dict[str, tuple[Rule, ...]] = field(default_factory=dict, compare=False, repr=False)
    _last_live: list[tuple[tuple[Any, ...], LiveLaw]] = field(default_factory=list, compare=False, repr=False)
    _stamp: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def rules_for(self, origin: str) -> tuple[Rule, ...]:
        """The rules whose origin patterns may name `origin` at some time; worked out once per origin (a memo, not state)."""
        found = self._by_origin.get(origin)
        if found is None:
            found = self._by_origin[origin] = tuple(
                rule
                for _, rule in sorted(self.rules.items())
                if rule.origin.is_any or {origin, origin[:2]} & (rule.origin.always | set(rule.origin.dated))
            )
        return found

    def live(self, origin: str, action: str, at: datetime, known_at: datetime) -> LiveLaw:
        """The rules that can bear on this kind of question; the last answer is kept, for one study is asked about many readers."""
        key = (origin, action, at, known_at)
        for last_key, found in self._last_live:
            if last_key == key:
                return found
        made = live_law(self.rules_for(origin), self.regimes, origin, action, at, known_at)
        self._last_live[:] = [(key, made)]
        return made

    def stamp_record(self) -> dict[str, Any]:
        """Which packs and whose confirmations, as a decision's record names them."""
        return self._stamp


def load_law(directory: Path | None = None, confirmations: Path | None = None, trusted_keys: Mapping[str, str] | None = None) -> LawBundle:
    """The bundle in `directory` (by default the shipped packs) with the confirmations in `confirmations`.

    Where no confirmations are named, `confirmations.json` beside the packs is taken, else `demo-confirmations.json` there, else none.
    `trusted_keys` maps a role to the only public key (PEM) that may sign for it.

    Raises:
        BadInput: a malformed pack, or confirmations that do not verify or do not fit; the message names file, rule and reason.
    """
    directory = directory if directory is not None else SHIPPED_LAW
    bundle, texts, sets = read_packs(directory)
    manifest = _manifest(bundle, texts)
    if confirmations is None:
        confirmations = next((path for name in (OWN_CONFIRMATIONS, DEMO_CONFIRMATIONS) if (path := directory / name).is_file()), None)
    verified = verify_confirmations(confirmations, manifest, trusted_keys) if confirmations is not None else None
    return _compile(directory, bundle, texts, sets, manifest, verified)


def load_packs(directory: Path | None = None) -> LawBundle:
    """The bundle in `directory` with nobody's confirmations: all DRAFT.

    Raises:
        BadInput: a malformed pack; the message names file, rule and reason.
    """
    directory = directory if directory is not None else SHIPPED_LAW
    bundle, texts, sets = read_packs(directory)
    return _compile(directory, bundle, texts, sets, _manifest(bundle, texts), None)


def refuse_rollback(in_force: LawBundle, candidate: LawBundle) -> None:
    """Returns if `candidate` may follow `in_force`: the same bundle, and the same content or a higher version.

    Raises:
        Conflict: another bundle, an older version, or another content under the same version.
    """
    if candidate.name != in_force.name:
        raise Conflict("LAW_OTHER_BUNDLE", f"{in_force.name} is in force, {candidate.name} was offered")
    if candidate.version < in_force.version:
        raise Conflict("LAW_ROLLED_BACK", f"version {in_force.version} is in force, version {candidate.version} was offered")
    if candidate.version == in_force.version and candidate.manifest.digest != in_force.manifest.digest:
        raise Conflict("LAW_VERSION_REUSED", f"version {candidate.version} is in force with other content; raise the version")


def reload_law(
    in_force: LawBundle, directory: Path | None, confirmations: Path | None, trusted_keys: Mapping[str, str] | None = None
) -> tuple[LawBundle, str | None]:
    """(the bundle now in force, why the offered one was refused or None). An unconfirmed bundle does not follow a confirmed one."""
    try:
        candidate = load_law(directory, confirmations, trusted_keys)
        refuse_rollback(in_force, candidate)
    except (BadInput, Conflict) as problem:
        return in_force, str(problem)
    if candidate.confirmations is None and in_force.confirmations is not None:
        return in_force, f"{directory or SHIPPED_LAW}: unsigned: the bundle in force is confirmed, this one is not"
    return candidate, None


def read_packs(directory: Path) -> tuple[_BundleText, dict[str, RuleText], Sets]:
    """The validated text of every pack in `directory`.

    Raises:
        BadInput: the message names file, rule and reason.
    """
    if not (directory / BUNDLE_FILE).is_file():
        raise BadInput(f"{directory / BUNDLE_FILE}: there is none; a law bundle has its name, version, sets and regimes there")
    raw = _read_yaml(directory / BUNDLE_FILE)
    try:
        bundle = _BundleText.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{directory / BUNDLE_FILE}: {_first(error)}") from None
    sets = {name: tuple(Membership(m.code, m.since, m.until) for m in members) for name, members in bundle.sets.items()}
    for name, members in sets.items():
        for member in members:
            if not (CODE.match(member.code) and is_known(member.code)):
                raise BadInput(f"{directory / BUNDLE_FILE}: set {name}: {member.code} is no known jurisdiction")
    texts: dict[str, RuleText] = {}
    for path in sorted(directory.glob("*.yaml")):
        if path.name != BUNDLE_FILE:
            _read_pack(path, texts, bundle, sets)
    return bundle, texts, sets


def _read_pack(path: Path, texts: dict[str, RuleText], bundle: _BundleText, sets: Sets) -> None:
    raw = _read_yaml(path)
    if not isinstance(raw, dict) or set(raw) - {"pack", "title", "defaults", "rules"} or not isinstance(raw.get("rules"), list):
        raise BadInput(f"{path}: a pack has pack, title, defaults and a list of rules, and nothing else")
    defaults = raw.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise BadInput(f"{path}: defaults must be an object")
    for number, item in enumerate(raw["rules"], start=1):
        name = item.get("id") if isinstance(item, dict) else None
        where = f"{path}: rule {name or f'number {number}'}"
        if not isinstance(item, dict):
            raise BadInput(f"{where}: is not an object")
        try:
            text = RuleText.model_validate({**defaults, **item})
            compile_rule(text, sets, "", False)
        except ValidationError as error:
            raise BadInput(f"{where}: {_first(error)}") from None
        except ValueError as error:  # ours, from compile_territory: it names the pattern
            raise BadInput(f"{where}: {error}") from None
        if text.id in texts:
            raise BadInput(f"{where}: the id is used twice")
        if text.regime is not None and text.regime not in bundle.regimes:
            raise BadInput(f"{where}: the regime {text.regime} is not in {BUNDLE_FILE}")
        texts[text.id] = text


def _read_yaml(path: Path) -> Any:
    try:
        content = path.read_bytes()
    except OSError:
        raise BadInput(f"{path}: cannot be read") from None
    if len(content) > _PACK_BYTES_MAX:
        raise BadInput(f"{path}: is larger than {_PACK_BYTES_MAX} bytes")
    try:
        loaded = yaml.load(content, Loader=_PackLoader)  # noqa: S506 - a safe loader, the C one where it was built
    except _NameTwice as twice:
        raise BadInput(f"{path}: a name stands twice in one object (line {twice.line})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BadInput(f"{path}: is not YAML{f' (line {mark.line + 1})' if mark is not None else ''}") from None
    if not _is_small(loaded):
        raise BadInput(f"{path}: unfolds to more than {_PACK_VALUES_MAX} values")
    return loaded


class _NameTwice(Exception):
    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


class _PackLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that takes no object in which a name stands twice: which of the two counts must not be left to a library."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise _NameTwice(node.start_mark.line + 1)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def _is_small(loaded: Any) -> bool:
    """Whether it has no more values than a pack may, counted as often as aliases repeat them."""
    waiting, count = [loaded], 0
    while waiting and count <= _PACK_VALUES_MAX:
        node = waiting.pop()
        count += 1
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return not waiting


def _first(error: ValidationError) -> str:
    """The first complaint, by place and reason, without the value."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _manifest(bundle: _BundleText, texts: Mapping[str, RuleText]) -> LawManifest:
    parts: dict[str, str] = {}
    for name, members in bundle.sets.items():
        rows = [member.model_dump(mode="json") for member in members]
        parts[f"set:{name}"] = digest(sorted(rows, key=lambda row: (row["code"], row["since"] or "")))
    for name, patterns in bundle.regimes.items():
        parts[f"regime:{name}"] = digest(sorted(patterns))
    rules = {rule_id: digest(text.model_dump(mode="json", by_alias=True, exclude_none=True)) for rule_id, text in texts.items()}
    return LawManifest(bundle.bundle, bundle.version, rules, parts)


def _compile(
    directory: Path, bundle: _BundleText, texts: dict[str, RuleText], sets: Sets, manifest: LawManifest, verified: Confirmations | None
) -> LawBundle:
    confirmed = verified.confirmed if verified is not None else {}
    rules = {
        rule_id: compile_rule(text, sets, manifest.rules[rule_id], confirmed.get(rule_id) == manifest.rules[rule_id])
        for rule_id, text in texts.items()
    }
    try:
        regimes = {name: compile_territory(tuple(patterns), sets) for name, patterns in bundle.regimes.items()}
    except ValueError as error:  # ours: it names the pattern
        raise BadInput(f"{directory / BUNDLE_FILE}: regimes: {error}") from None
    stamp = {
        "name": bundle.bundle,
        "version": bundle.version,
        "digest": manifest.digest,
        "confirmations": {
            "set": verified.set_id,
            "digest": verified.digest,
            "signers": [{"role": role, "name": name} for role, name in verified.signers],
        }
        if verified is not None
        else None,
    }
    return LawBundle(bundle.bundle, bundle.version, digest(stamp), manifest, verified, rules, texts, regimes, sets, _stamp=stamp)
