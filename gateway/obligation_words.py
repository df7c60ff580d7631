"""What the law asks in return, in sentences for the reader and the privacy officer."""

from __future__ import annotations

OBLIGATION_SENTENCES = {
    "VIEW_ONLY": "For viewing only: whole files are not handed out.",
    "NO_PERSIST": "Nothing of this study may be kept on this computer.",
    "WATERMARK": "Images carry a watermark with your name.",
    "PRELIMINARY_ONLY": "You may sign a preliminary report; the final one is for a reader under the hospital's law.",
    "FINAL_BY_US_READER": "A reader in the United States will sign the final report.",
    "KEYS_IN": "Keys stay in the hospital's region.",
    "COPY_IN": "A copy stays in the hospital's country.",
    "NOTIFY_PO": "The privacy officer is told.",
    "REVIEW_72H": "This access is reviewed within 72 hours.",
}


def obligation_sentence(obligation: str) -> str:
    """ "VIEW_ONLY", or with a place or number: "KEYS_IN:EU", "COPY_IN(IN)"."""
    name = obligation.split("(")[0].split(":")[0]
    return OBLIGATION_SENTENCES.get(name, obligation)
