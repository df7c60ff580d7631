#!/usr/bin/env python3
"""Make the viewer: OHIF as npm ships it, moved to /ohif/, minified, compressed.

    python viewer/build.py --out viewer/dist      # needs npm; then: pip install ./viewer

- What is fetched is what package-lock.json names by sha512; `npm ci` refuses anything else. OHIF's entry there lists no
  dependencies: the package is a finished bundle, and the libraries it was made from are not needed again.
- OHIF's source is changed in two ways only, each counted; another count fails the build, since it would mean that OHIF is no longer
  what was tested. Its public path "/" is compiled into eight bundles. The JavaScript around its image decoders (Emscripten's embind)
  makes functions from text, which a policy without 'unsafe-eval' refuses, so that no compressed image would be shown; the same functions
  are written as closures instead.
- No inline script, service worker or address of another host is left in index.html, so a strict policy can hold.
- The notices of the libraries inside the bundles survive minifying, in *.LEGAL.txt beside each.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = "/ohif/"
PUBLIC_PATH = '__webpack_require__.p = "/";'
BUNDLES_WITH_PUBLIC_PATH = 8
OWN_FILES = ("boot.js", "app-config.js")

_INVOKER = """(function () {
  return function (...given) {
    if (given.length !== argCount - 2)
      throwBindingError("function " + humanName + " called with " + given.length + " arguments, expected " + (argCount - 2));
    const destructors = needsDestructorStack ? [] : null, wired = [];
    if (isClassMethodFunc) wired.push(argTypes[1].toWireType(destructors, this));
    given.forEach((value, i) => wired.push(argTypes[i + 2].toWireType(destructors, value)));
    const rv = cppInvokerFunc(cppTargetFunc, ...wired);
    const first = isClassMethodFunc ? 1 : 2;
    if (destructors) runDestructors(destructors);
    else wired.forEach((value, i) => argTypes[first + i].destructorFunction?.(value));
    if (returns) return argTypes[0].fromWireType(rv);
  };
})()"""
#: (what makes a function from text, the closure in its place, how often it stands in all bundles). The variables are those of the
#: function around it; what the text would have said is kept line by line.
TEXT_TO_FUNCTION = (
    (
        r"""return new Function\(\s*"body",[\s\S]{1,300}?\)\(body\)""",
        'return Object.defineProperty(function () { return body.apply(this, arguments); }, "name", { value: name })',
        7,
    ),
    (r"new_\(Function,\s*args1\)\.apply\(null,\s*args2\)", _INVOKER, 7),
    (r"newFunc\(Function,args\)\(\.\.\.closureArgs\)", _INVOKER, 2),
    (
        r"""new Function\("requireRegisteredType","Module","valueToHandle","getMemory",functionBody\)"""
        r"""\(requireRegisteredType,Module,Emval\.toHandle,getMemory\)""",
        """(function (constructor, argTypes, args) {
  const values = [];
  for (let i = 0; i < argCount; ++i) {
    const type = requireRegisteredType(getMemory()[argTypes >> 2], "parameter " + i);
    values.push(type.readValueFromPointer(args));
    args += type["argPackAdvance"];
    argTypes += 4;
  }
  return Emval.toHandle(new constructor(...values));
})""",
        5,
    ),
    (
        r"newFunc\(Function,params\)\(\.\.\.args\)",
        """(function (obj, func, destructorsRef, at) {
  const wanted = types.slice(0, argCount);
  const values = wanted.map((type) => { const value = type.readValueFromPointer(at); at += type.argPackAdvance; return value; });
  const rv = kind === 1 ? new func(...values) : func.call(...(kind === 0 ? [obj, ...values] : values));
  if (!retType.isVoid) return emval_returnValue(retType, destructorsRef, rv);
})""",
        2,
    ),
    (
        r"new_\(Function,params\)\.apply\(null,args\)",
        """(function (handle, name, destructors, at) {
  const wanted = types.slice(1, argCount);
  const values = wanted.map((type) => { const value = type.readValueFromPointer(at); at += type["argPackAdvance"]; return value; });
  const rv = handle[name](...values);
  wanted.forEach((type, i) => { if (type["deleteObject"]) type.deleteObject(values[i]); });
  if (!retType.isVoid) return retType.toWireType(destructors, rv);
})""",
        1,
    ),
)

#: Source maps, AI segmentation (136 MB), whole-slide microscopy, identity providers' pages, service workers, other platforms' icons.
LEFT_OUT = re.compile(
    r"""(^|/)(.*\.map
        |google\.js|silent-refresh\.html|sw\.js|init-service-worker\.js|oidc-client.*|es6-shim.*|polyfill\.min.*
        |_headers|_redirects|serve\.json|manifest\.json|app-config\.js|.*apple-touch.*)$
      |^(ort|dicom-microscopy-viewer|customizations)/
      |^assets/(android|mstile|yandex|coast|firefox|browserconfig|manifest)""",
    re.VERBOSE,
)
COMPRESSED = {".js", ".css", ".html", ".svg", ".json", ".wasm", ".txt", ".ico"}
#: Below this a compressed copy saves less than its own headers cost.
COMPRESSED_BYTES_MIN = 512


class BuildFailed(Exception):
    """The viewer cannot be made as it was tested; the message says what differs."""


def install_packages() -> None:
    """Bring node_modules to exactly what package-lock.json names, by digest; no package's script runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise BuildFailed("npm is not installed; it is needed to build the viewer, never to run it")
    subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=HERE, check=True)


def copy_bundle(source: Path, out: Path) -> int:
    """Copy what is kept of OHIF's finished bundle to `out`; returns the number of files."""
    count = 0
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and not LEFT_OUT.search(name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
            count += 1
    shutil.copyfile(source.parent / "LICENSE", out / "LICENSE.txt")
    return count + 1


def move_to_base_path(out: Path) -> int:
    """Replace the public path in scripts and style sheets; returns how many scripts changed (must be eight)."""
    changed = 0
    for path in sorted(out.glob("*.js")):
        text = path.read_text(encoding="utf-8")
        if PUBLIC_PATH in text:
            path.write_text(text.replace(PUBLIC_PATH, PUBLIC_PATH.replace('"/"', f'"{BASE}"')), encoding="utf-8")
            changed += 1
    for path in sorted(out.glob("*.css")):
        path.write_text(path.read_text(encoding="utf-8").replace("url(/", f"url({BASE}"), encoding="utf-8")
    return changed


def write_out_functions(out: Path) -> list[int]:
    """Replace what makes functions from text by closures that do the same; how often each of `TEXT_TO_FUNCTION` was found."""
    counts = [0] * len(TEXT_TO_FUNCTION)
    for path in sorted(out.glob("*.js")):
        before = text = path.read_text(encoding="utf-8")
        for number, (pattern, closure, _) in enumerate(TEXT_TO_FUNCTION):
            text, found = re.subn(pattern, lambda _match, closure=closure: closure, text)
            counts[number] += found
        if text != before:
            path.write_text(text, encoding="utf-8")
    return counts


def clean_index(text: str) -> str:
    """index.html without inline scripts, foreign platforms' tags and service worker, with every address under the base path."""
    text = re.sub(r"<(?:link|meta)[^>]*(?:apple-|yandex|coast|msapplication|manifest|mobile-web-app)[^>]*>", "", text)
    text = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    text = re.sub(r"<script[^>]*init-service-worker\.js[^>]*></script>", "", text)
    own = "".join(f'<script src="/{name}"></script>' for name in OWN_FILES)
    text, replaced = re.subn(r'<script[^>]*src="/app-config\.js"[^>]*></script>', own, text)
    if replaced != 1:
        raise BuildFailed("index.html names app-config.js in no place known, or in several")
    text = re.sub(r"<title>.*?</title>", "<title>Readgate viewer</title>", text)
    # OHIF forbids zooming the page; a reader who needs it may (WCAG 2.2, 1.4.4).
    text = text.replace(",maximum-scale=1.0,user-scalable=no", "")
    text = re.sub(r'\b(href|src)="/(?!/)', rf'\1="{BASE}', text)
    if re.search(r"https?://|<script>", text):
        raise BuildFailed("index.html still holds an inline script or another host's address")
    return text


def minify(out: Path) -> None:
    """Minify every script of OHIF in place; third-party notices go to NAME.LEGAL.txt."""
    esbuild = HERE / "node_modules" / ".bin" / "esbuild"
    scripts = [str(path) for path in sorted(out.glob("*.js")) if path.name not in OWN_FILES]
    options = ["--minify", "--target=es2022", "--legal-comments=external", "--log-level=error", "--allow-overwrite", f"--outdir={out}"]
    subprocess.run([str(esbuild), *scripts, *options], cwd=HERE, check=True)


def compress(out: Path) -> None:
    """Put NAME.gz beside every file that gains by it; the same input gives the same bytes."""
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.suffix in COMPRESSED and path.stat().st_size >= COMPRESSED_BYTES_MIN:
            packed = gzip.compress(path.read_bytes(), compresslevel=9, mtime=0)
            path.with_name(path.name + ".gz").write_bytes(packed)


def build(out: Path) -> None:
    """Make the whole viewer in `out`, which is emptied first."""
    package = HERE / "node_modules" / "@ohif" / "app"
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["@ohif/app"]
    found = json.loads((package / "package.json").read_text())["version"]
    if wanted != found:
        raise BuildFailed(f"node_modules holds OHIF {found}, package.json wants {wanted}")
    # setuptools copies the viewer to build/ and keeps there what an earlier viewer had; such files must not reach the wheel.
    for old in (out, HERE / "build"):
        shutil.rmtree(old, ignore_errors=True)
    out.mkdir(parents=True)
    copy_bundle(package / "dist", out)
    changed = move_to_base_path(out)
    if changed != BUNDLES_WITH_PUBLIC_PATH:
        raise BuildFailed(f"the public path stands in {changed} bundles, not {BUNDLES_WITH_PUBLIC_PATH}: this OHIF was not tested")
    counts = write_out_functions(out)
    if counts != [expected for _, _, expected in TEXT_TO_FUNCTION]:
        raise BuildFailed(f"functions made from text stand {counts} times in the decoders' bundles: this OHIF was not tested")
    index = out / "index.html"
    index.write_text(clean_index(index.read_text(encoding="utf-8")), encoding="utf-8")
    minify(out)
    for name in OWN_FILES:
        shutil.copyfile(HERE / name, out / name)
    compress(out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make Readgate's viewer (OHIF) from its npm package.")
    parser.add_argument("--out", type=Path, default=HERE / "dist", help="folder to fill; emptied first (default: viewer/dist)")
    parser.add_argument("--no-install", action="store_true", help="use node_modules as it stands")
    options = parser.parse_args()
    out: Path = options.out.resolve()
    if out in (HERE, *HERE.parents):
        print(f"viewer: {out} holds the build itself and would be emptied; name a folder of its own", file=sys.stderr)
        return 2
    try:
        if not options.no_install:
            install_packages()
        build(out)
    except (BuildFailed, OSError) as failure:
        print(f"viewer: not built: {failure}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failure:
        print(f"viewer: not built: {Path(failure.cmd[0]).name} ended with {failure.returncode}", file=sys.stderr)
        return 1
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"viewer: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
