#!/usr/bin/env python3
"""How many instances one core de-identifies, proof scan included.

usage: python -m bench.deidentify [--ct 400] [--mr 1000] [--peers]

Two sets are made in memory: CT slices of 512x512 int16 with 258 elements each (a hundred of them private), MR slices of 256x256.
Prints instances per CPU second for collecting the identity, for the header work with its residual scan, and with HTJ2K added; with
--peers the same CT set through dicom-anonymizer (in process) where it is installed. No OCR: these classes do not ask for it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import time
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from compliance import transcode
from compliance.burned_in import PixelScreening, screen_pixels
from compliance.deidentify import deidentify
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms, collect_identity
from tests.builders import make_ct_study, make_mr_study, part10_of, payload_of

ELEMENTS = 258


def fill(dataset: Dataset, index: int) -> Dataset:
    """The dataset with elements added, a hundred private ones among them, until it has ELEMENTS at the top level."""
    for number in range(100):
        if number % 50 == 0:
            dataset.add_new(Tag(0x0019 + 0x10 * (number // 50), 0x0010), "LO", f"ACME CT HEADER {number // 50}")
        tag = Tag(0x0019 + 0x10 * (number // 50), 0x1001 + number % 50)
        dataset.add_new(tag, "DS", f"{number * 0.37 + (index if number % 10 == 0 else 0):.4f}")
    for keyword_index in range(0x9300, 0x9400):
        if len(dataset) >= ELEMENTS - 20:
            break
        if Tag(0x0018, keyword_index) not in dataset:
            try:
                _standard(dataset, keyword_index)
            except KeyError:
                continue
    number = 0
    while len(dataset) < ELEMENTS:
        dataset.add_new(Tag(0x0029, 0x1101 + number), "SH", f"v{number}")
        number += 1
    return dataset


def _standard(dataset: Dataset, element: int) -> None:
    from pydicom.datadict import dictionary_VR

    tag = Tag(0x0018, element)
    vr = dictionary_VR(tag)
    values = {
        "FD": 1.5 + element,
        "CS": "YES",
        "DS": f"{element / 7:.5f}",
        "FL": 2.5,
        "US": 3,
        "UL": 7,
        "SH": "x",
        "LO": "Helical",
        "IS": "3",
    }
    if vr in values:
        dataset.add_new(tag, vr, values[vr])


def measured(name: str, count: int, work: Callable[[], object]) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:48s} {count / cpu:9.0f} instances/s of one core   {1000 * cpu / count:7.3f} ms each   ({count / wall:.0f}/s wall)")


def names_for(identity: IdentityTerms) -> Pseudonymity:
    return Pseudonymity("h1", b"bench secret of 32 bytes........", "RG-4M7Q2T", -211, "RG-ACC-1", identity)


def screened(dataset: Dataset, words: Sequence[str]) -> PixelScreening:
    return screen_pixels(dataset, words, None)


def run(name: str, sources: list[IdentifiedDataset]) -> None:
    found: list[IdentityTerms] = []
    count = len(sources)
    measured(f"{name}: collect identity", count, lambda: found.append(collect_identity(sources)))
    measured(f"{name}: headers, pixel screen, residual scan", count, lambda: _all(sources, names_for(found[0]), False))
    codec = [0.0]
    lossless = transcode._lossless

    def timed(frame: NDArray[np.generic]) -> bytes | None:
        start = time.process_time()
        try:
            return lossless(frame)
        finally:
            codec[0] += time.process_time() - start

    transcode._lossless = timed
    start = time.process_time()
    measured(f"{name}: all, HTJ2K encoded, decoded, compared", count, lambda: _all(sources, names_for(found[0]), True))
    transcode._lossless = lossless
    rest = time.process_time() - start - codec[0]
    print(f"{name}: all but the codec {count / rest:41.0f} instances/s of one core   {1000 * rest / count:7.3f} ms each")
    size = sum(len(one.payload) for one in sources) / count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name}: {size / 1e3:.0f} kB each, peak resident {peak:.0f} MB with the set itself")


def _all(sources: list[IdentifiedDataset], under: Pseudonymity, compress: bool) -> None:
    for source in sources:
        deidentify(source, under, screen=screened, compress=compress)


def run_dicom_anonymizer(sources: list[Dataset]) -> None:
    try:
        from dicomanonymizer import anonymize_dataset  # type: ignore[import-not-found]
    except ImportError:
        print("dicom-anonymizer: not installed here")
        return
    from pydicom import dcmread

    files = [part10_of(dataset) for dataset in sources]

    def work() -> None:
        for data in files:
            dataset = dcmread(BytesIO(data))
            anonymize_dataset(dataset, delete_private_tags=True)
            dataset.save_as(BytesIO())

    measured("dicom-anonymizer: read, anonymise, write", len(files), work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", type=int, default=400)
    parser.add_argument("--mr", type=int, default=1000)
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    base = make_ct_study(1, 512, 512)[0]
    ct: list[Dataset] = []
    noise = np.zeros((512, 512), np.int16)
    for index in range(arguments.ct):
        one = Dataset(base)
        one.file_meta = base.file_meta
        one.SOPInstanceUID, one.InstanceNumber = f"1.2.826.0.1.3680043.9.{index + 1}.7", index + 1
        one.ImagePositionPatient, one.SliceLocation = [-120.5, -130.25, index * 1.25], index * 1.25
        one.ContentTime = (dt.datetime(2026, 3, 14, 9) + dt.timedelta(seconds=index / 3)).strftime("%H%M%S.%f")
        one.AcquisitionNumber = index // 40 + 1
        if index % 50 == 0:
            noise = rng.integers(-15, 15, (512, 512), dtype=np.int16)
        one.PixelData = (np.frombuffer(base.PixelData, np.int16).reshape(512, 512) + noise).astype(np.int16).tobytes()
        ct.append(fill(one, index))
    print(f"CT: {len(ct)} instances of {len(ct[0])} elements")
    run("CT", [IdentifiedDataset(payload_of(one), ExplicitVRLittleEndian, one.SOPClassUID, one.SOPInstanceUID) for one in ct])
    if arguments.peers:
        run_dicom_anonymizer(ct[:100])
    mr = make_mr_study(arguments.mr) if arguments.mr else []
    if mr:
        run("MR", [IdentifiedDataset(payload_of(one), ExplicitVRLittleEndian, one.SOPClassUID, one.SOPInstanceUID) for one in mr])


if __name__ == "__main__":
    main()
