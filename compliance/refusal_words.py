"""What a refusal may say: the reason codes, details and places that this package knows, and nothing else.

A process that read a stranger's bytes may have been taken over by them; what it says of a refusal goes to tables that hold no identity.
A test reads the sources and finds every constant here.
"""

from __future__ import annotations

import re

from compliance.dataset_bytes import DEPTH_MAX, NUMBER_BYTES

TAG = re.compile(r"\([0-9A-F]{4},[0-9A-F]{4}\)")
REASONS = frozenset(
    """
    ARCHIVE_EXPANDS ARCHIVE_UNREADABLE FILE_UNREADABLE IDENTITY_INCOMPLETE
    BROKEN_ARCHIVE BURNED_IN_TEXT DATASET_NOT_WRITABLE DEFLATED_TRANSFER_SYNTAX DICOMDIR DOUBTFUL_TEXT DUPLICATE_ELEMENT
    ENCAPSULATED_DOCUMENT
    ENCAPSULATED_IDENTITY ENCAPSULATED_IMAGES IMPOSSIBLE_PIXELS MALFORMED_DATASET MALFORMED_PIXELS MISSING_UID NESTED_TOO_DEEP
    NOT_A_FILE OPAQUE_SOP_CLASS OVERLAY_IN_PIXELS PIXELS_NOT_SCREENED PIXELS_TOO_LARGE PIXEL_DIMENSIONS_INVALID PIXEL_LENGTH_MISMATCH
    PIXEL_SYNTAX_REFUSED PIXEL_TOO_LARGE PIXEL_UNDECODABLE RECOGNIZABLE_VISUAL_FEATURES RESIDUAL_IDENTITY SEVERAL_PATIENT_IDS
    TABLE_NOT_HELD TRUNCATED_PIXELS UID_MISMATCH UNKNOWN_CHARACTER_SET UNKNOWN_TRANSFER_SYNTAX VALUE_TOO_LONG WORKER_LIMIT
    """.split()
)
#: Why a screening holds an instance; it is the detail of BURNED_IN_TEXT.
HOLDS = frozenset({"OCR_UNAVAILABLE", "TEXT_IN_MANY_FRAMES", "TEXT_ON_ANATOMY", "TEXT_REMAINS"})
#: Why a box is proposed.
BOX_WHYS = frozenset({"mask", "reviewed", "identifying", "unknown text", "text on anatomy"})
_PDF_PARTS = ("a form", "an action", "layers", "attachments", "a signature")
_PAGES_MAX = 500
DETAILS = (
    frozenset(
        line.strip()
        for line in """
        Float Pixel Data is not screened
        Number of Frames is no number
        PS3.3 C.12.1.1.2
        PS3.3 C.7.6.3.1
        PS3.3 C.7.6.3.1.5
        PS3.5 8.1.1
        PS3.5 8.1.2
        PS3.5 A.4
        SOP class and instance must be named
        SOP class, study, series and instance must be named
        Table E.1-1 empties it
        Table E.1-1 removes it
        a directory of files is no instance of a study
        a face could be reconstructed and cannot be removed here
        a frame without bytes
        a name or place of the study is left in text
        a number or day of the study is left in text
        a page of it is larger than a page may be
        a private creator off the safe list
        a private element is there
        a private element off the safe list
        a sequence ends inside an item header
        a sequence of undefined length does not end
        an element is longer than what encloses it
        an element that never leaves is there
        an element the standard does not know is there
        an identifying value is left in the bytes
        an item is longer than its sequence
        an item of undefined length does not end
        an original UID is left
        an original day is left
        big-endian cells of more than 16 bits are written in two orders
        codestream and attributes differ
        decoded they would exceed what an instance may take
        deflated
        elements are not in ascending order
        encapsulated pixel data does not end
        encapsulated pixel data is broken
        fewer bytes than the frames need
        fragments cannot be told to frames
        inflate it before sending; PS3.5 A.5
        it holds a font whose letters are drawings
        it holds a font whose letters cannot be read
        it holds an action
        it holds an object that is neither text nor image
        it holds annotations
        it holds attachments or scripts
        it holds drawings that could be letters
        it holds images: a person has to look at them
        it holds letters that cannot be read
        it holds patterns, which can be pictures
        it is encrypted
        it is not a PDF that can be read
        it takes more memory than an instance of its size may
        its forms are nested too deep
        its text names somebody
        its text names somebody, or may
        metadata would remain
        more than 65534 bytes in a short form element
        more than a native element can hold
        more elements than a dataset has
        more frames than are counted
        more frames with edges of their own than are read
        more frames with strokes of their own than are read
        more than one pixel data element
        more than pictures is left in compressed frames
        what a video holds beside pixels cannot be told
        native pixel data in a compressed transfer syntax
        neither a DICOM file nor a dataset
        no fragment
        no offset table and no fragment
        no rows, columns, samples, bits or frames
        not a PDF, or larger than one may be
        only a PDF can be made anew and proved
        only its maker can read what it holds
        only the transfer syntaxes of PS3.5 are understood
        reading it takes more memory than it may
        samples or bits that no IOD has
        something else than an item stands in a sequence
        study, series and instance must be named by valid UIDs
        the dataset cannot be encoded
        the dataset ends inside an element header
        the dataset is not the instance it was sent as
        the file meta information is cut
        the file meta information names another instance or class
        the output does not parse
        the profile cleans pixel data and no screen was given
        the same element twice in one dataset
        the study names more than one patient
        undefined length outside a sequence
        unknown value representation
        what looks like a person's name is none of the study's
        a colour transform that none is
        a comment in a tile-part, or what no decoder needs
        a scan of no frame
        a segment that decodes to more than a plane
        a segment that is cut off
        a segment that no decoder needs, or of a wrong length
        a size of a wrong length
        a tile-part of a wrong length
        a tile-part that is cut off
        an image without a scan
        fewer bytes than the frame needs
        more frames with edges of their own than are read
        more frames with strokes of their own than are read
        more than pictures is left in compressed frames
        no header of segments
        no marker where one must stand
        no start of a JPEG 2000 codestream
        no start of a JPEG image
        not the segments that the frame needs
        segments that leave room for more, or that cannot be
        the codestream does not end
        the image does not end
        two frames in one
        two segments that decide on colour
        what a video holds beside pixels cannot be told
        what such a stream holds beside pixels cannot be told
        a file that may be of its study gave no identity
        a link or a device
        the system could not read it
        not a tar archive that can be read to its end
        the file is larger than an instance may be
        the file is not the one that was read at first
        the study is not named
        unpack it first: it holds far more than its size
        a box that is cut off
        a file type that is missing, or comes twice
        a palette, or a header box of no known meaning
        another size than its codestream's
        bytes behind its boxes
        channels in another order, or with opacity
        colours that must be converted
        no header or no codestream
        no size
        other components than its codestream's
        two codestreams in one frame
        two headers, or one behind the codestream
        """.strip().splitlines()
    )
    | {f"more than {DEPTH_MAX} sequences inside one another"}
    | {f"a value of {vr} is not a multiple of {size} bytes" for vr, size in NUMBER_BYTES.items()}
    | {f"it holds {part}" for part in _PDF_PARTS}
    | {f"it has no page, or more than {_PAGES_MAX}"}
)


def known_detail(detail: str) -> str:
    """`detail` where this package has such a constant, else nothing."""
    return detail if detail in DETAILS or detail in HOLDS or detail in REASONS else ""
