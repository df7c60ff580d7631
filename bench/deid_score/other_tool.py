"""Run dicom-anonymizer or deid over a folder, file by file, with their defaults: `other_tool.py TOOL SOURCE DESTINATION`.

Stands alone: it is run by the interpreter in which the tool is installed. Exit 3 where it is not. Writes summary.json beside the outputs.
"""

import json
import sys
from importlib import metadata
from pathlib import Path


def main(tool: str, source: Path, destination: Path) -> int:
    try:
        treat = {"dicom-anonymizer": dicom_anonymizer, "deid": deid}[tool]()
        version = metadata.version(tool)
    except (ImportError, metadata.PackageNotFoundError):
        return 3
    failed: dict[str, str] = {}
    for path in sorted(source.iterdir()):
        try:
            treat(path, destination / path.name)
        except Exception as problem:
            failed[path.name] = f"error: {type(problem).__name__}"
            (destination / path.name).unlink(missing_ok=True)
    (destination / "summary.json").write_text(json.dumps({"version": version, "failed": failed}))
    return 0


def dicom_anonymizer():
    """Its basic profile of the newest table it has, private elements deleted."""
    from dicomanonymizer import simpledicomanonymizer as module

    tables = Path(module.__file__).parent / "dicom_anonymization_databases"
    newest = max(path.stem for path in tables.glob("dicomfields_*.py"))

    def rules():
        return module.initialize_actions(newest)

    def treat(path: Path, out: Path) -> None:
        module.anonymize_dicom_file(str(path), str(out), base_rules_gen=rules)

    return treat


def deid():
    """Its recipe `deid.dicom`: header rules, private elements removed, and the pixel filters of the recipe."""
    import logging

    from deid.config import DeidRecipe
    from deid.dicom import get_files, get_identifiers, replace_identifiers
    from deid.logger import bot

    bot.level = 0
    logging.disable()
    recipe = DeidRecipe()

    def treat(path: Path, out: Path) -> None:
        files = list(get_files(str(path), force=True))
        ids = get_identifiers(files, force=True)
        made = replace_identifiers(dicom_files=files, ids=ids, deid=recipe, save=False, remove_private=True, force=True)
        made[0].save_as(out)

    return treat


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
