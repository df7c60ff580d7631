# ruff: noqa: E501 - one pattern a line, in the scripts that it is about
"""Patterns of identity that need no knowledge of the study: days, numbers of people and things, addresses, names behind a title.

Each works on text folded by `free_text.fold` (lower case, accents gone) unless its name says CASED. The rule for all: a pattern that
clinical text also uses (levels, ratios, sizes, versions) asks for a cue or refuses a unit behind it.
"""

from __future__ import annotations

import re
from functools import cache

from compliance.profile_table import standard_data

_MONTH = (
    r"(?:jan(?:uary|uar|vier)?|gen(?:naio)?|ene(?:ro)?|feb(?:ruary|ruar|rero|braio|r)?|fev(?:rier|r)?|mar(?:ch|s|zo|t)?|marz|maerz|mrz|"
    r"apr(?:il|ile)?|avr(?:il)?|abr(?:il)?|may|mai|mayo|maggio|mag|jun(?:e|i|io)?|juin|giu(?:gno)?|jul(?:y|i|io)?|juil(?:let)?|lug(?:lio)?|"
    r"aug(?:ust|ustus)?|aout|ago(?:sto)?|sep(?:t|tember|tembre|tiembre)?|set(?:tembre)?|oct(?:ober|obre|ubre)?|okt(?:ober)?|ott(?:obre)?|"
    r"nov(?:ember|embre|iembre)?|dec(?:ember|embre)?|dez(?:ember)?|dic(?:iembre|embre)?|styczen|stycznia|lutego|marca|kwietnia|maja|czerwca|"
    r"lipca|sierpnia|wrzesnia|pazdziernika|listopada|grudnia|januari|februari|maart|mei|augusti)\.?"
)
_LONG_MONTH = (
    r"(?:january|februar[yi]?|march|april|june|july|august|september|october|november|december|januar|maerz|juni|juli|oktober|dezember|"
    r"janvier|fevrier|avril|juin|juillet|septembre|octobre|novembre|decembre|enero|febrero|abril|junio|julio|septiembre|octubre|noviembre|"
    r"diciembre)"
)
_YEAR = r"(?:19|20)\d{2}"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_NUMBER_OF_MONTH = r"(?:0?[1-9]|1[0-2])"
#: What makes a number a measurement.
_NO_UNIT = r"(?!\s?(?:mm|cm|ml|cc|mg|kg|mgy|gy|ms|sec|min|hu|hz|khz|mhz|kv|kvp|ma|mas|deg|mbq|mci|msv|bpm|mmhg|%|x\s?\d)(?![a-z]))"

DATES = [
    re.compile(pattern)
    for pattern in (
        rf"(?<!\d){_YEAR}\s?[-/._ ]?\s?(?:0[1-9]|1[0-2])\s?[-/._ ]?\s?(?:0[1-9]|[12]\d|3[01])(?!\d)(?!\.\d)",
        rf"(?<!\d){_YEAR}([-/.]){_NUMBER_OF_MONTH}\1{_DAY}(?!\d)(?!\.\d)",
        rf"(?<![\d.,])(?:{_DAY}\s?[-/._]\s?{_NUMBER_OF_MONTH}|{_NUMBER_OF_MONTH}\s?[-/._]\s?{_DAY})\s?[-/._]\s?{_YEAR}(?!\d)",
        rf"(?<![\w.,])(?:{_DAY}([-/.]){_NUMBER_OF_MONTH}\1|{_NUMBER_OF_MONTH}([-/.]){_DAY}\2)\d{{2}}(?![\d.,/-]*\d)(?![a-z]){_NO_UNIT}",
        rf"(?<!\d){_DAY}(?:st|nd|rd|th|er|\.)?[ \t\-./,_]*(?:(?:of|de|del)\s+)?{_MONTH}[ \t\-./,_']*(?:(?:de|del)\s+)?(?:{_YEAR}|\d{{2}})(?!\d)(?![, \t]{{1,2}}{_YEAR}){_NO_UNIT}",
        rf"(?<![\d.,])(?:0[1-9]|[12]\d|3[01]) (?:0[1-9]|1[0-2]) {_YEAR}(?![\d.,]*\d){_NO_UNIT}",
        rf"(?<![a-z]){_MONTH}[\s\-_]*{_DAY}(?:st|nd|rd|th)?[\s,\-_./]+{_YEAR}(?!\d)",
        rf"(?<![a-z]){_MONTH}[\s\-,./_']*(?:(?:of|de|del)\s+)?{_YEAR}(?!\d)",
        rf"(?<!\d){_YEAR}[ \-./_]?{_MONTH}[ \-./_]?{_DAY}(?!\d)(?!\.\d){_NO_UNIT}",
        rf"(?<!\d){_YEAR}[ \-./_]{_LONG_MONTH}(?![a-z])",
        rf"(?<![a-z]){_LONG_MONTH}\s+(?:the\s+)?{_DAY}(?:st|nd|rd|th)?(?!\d)(?![.,]\d){_NO_UNIT}",
        rf"(?<![\d.,]){_DAY}(?:st|nd|rd|th|\.)?[ \t]+(?:of\s+|de\s+)?{_LONG_MONTH}(?![a-z])(?!\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+{_YEAR})",
        rf"(?<!\d){_DAY}(?:st|nd|rd|th)\s+(?:of\s+)?{_MONTH}(?![a-z])|(?<![a-z]){_MONTH}\s+{_DAY}(?:st|nd|rd|th)(?![a-z])",
        rf"(?<![\d/.\-]){_NUMBER_OF_MONTH}[/.-]{_YEAR}(?!\d)|(?<![\d/.\-]){_YEAR}[-/](?:0[1-9]|1[0-2])(?![\d-])",
        r"(?:[令平昭大明]\S)?\s*\d{1,4}\s*[年년]\s*\d{1,2}\s*[月월](?:\s*\d{1,2}\s*[日일])?",
        rf"(?<![a-z])(?:on|dated?|dob|born|birth ?date|since|geb(?:oren)?(?:\s+am)?\.?|vom|nacido|ne le)\s*:?\s*{_DAY}[/.]{_NUMBER_OF_MONTH}\.?(?![\d/]){_NO_UNIT}",
        rf"(?<![a-z])(?:dob|born|birth ?year|geb(?:oren)?\.?|year of birth|jahrgang)\s*(?:in\s+)?:?\s*{_YEAR}(?!\d)",
    )
]

#: Between two digits of one telephone number: a blank, a sign that a digit follows at once, or digits in brackets; never the end of a line.
_SEPARATED = r"(?:[ \t\u00a0]|[\-./](?=\d)|[ \t]?\(\d{1,4}\)[ \t\-]?)?"
NUMBERS = [
    re.compile(pattern)
    for pattern in (
        r"[a-z0-9._%+\-]+\s?@\s?[a-z0-9\-]+(?:\.[a-z0-9\-]+)+",
        r"(?:https?|ftp|dicom|file)://\S+|(?<![\w.])www\.[a-z0-9\-]+\.[a-z]{2,}\S*|(?<![\w.@])[a-z0-9\-]+\.(?:com|org|net|edu|gov|de|fr|ch|at|uk|nl|info|health|hospital)(?:/\S*)?(?![\w.])",
        r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]*\d)",
        r"(?<![\w.])[a-z][a-z0-9\-]*(?:\.[a-z0-9\-]+)*\.[a-z]{2,12}/(?=\S*[\d/])[^\s;,]+",
        r"(?<![\w:])(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}(?![\w:])",
        r"(?<![0-9a-f:\-])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![0-9a-f])|(?<![\w:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}(?![\w:])",
        r"(?<![\d-])\d{3}[- ]\d{2}[- ]\d{4}(?![\d-])",
        rf"(?<![\w.])(?:\+|00)\d{{1,3}}(?:{_SEPARATED}\d{{1,5}}[ \t]?/[ \t]?(?=\d{{3}}))?(?:{_SEPARATED}\d){{6,13}}(?!\d)",
        r"(?<![\w.,])0\d(?:[ .\-]\d{2}){4}(?!\d)(?![.,]\d)",
        r"(?<![\w.])\(?\d{3}\)?[\s\-.]{1,2}\d{3}[\s\-.]\d{4}(?!\d)|(?<![\w.])\(\d{2,5}\)\s?\d{3,}(?:[\s\-]?\d{2,})*",
        r"(?<![\w.,])0\d{1,4}[ \t/\-]{1,3}\d{3,}(?:[ \-]\d{2,})*(?!\d)(?![.,]\d)",
        r"(?<![a-z])(?:tel|telefon|telephone|phone|ph|fax|mobile|mobil|cell|call|pager|bleep|ext)(?![a-z])\.?\s*(?:no\.?|nr\.?|number)?\s*[:#]?\s*\+?\(?\d(?:\d{1,5}\)?[ \t]?/[ \t]?(?=\d{3}))?\)?(?:[ \t]?[\-()]{0,2}[ \t]?\d|[./]\d){3,}",
        r"(?<![\d.])[0-2](?:\.(?:0|[1-9]\d*)){4,}(?![\d.])",
        r"(?<![a-z])(?:mrn|mr\s?#|mr no|pid|pat(?:ient|\.)?[\s\-_]?(?:id|nr|no)|ssn|nhs|acc(?:ession)?|fallnr|fall-?nr|auftrags?-?nr|s/n|serial|chart|record|hospital|"
        r"case|order|visit|encounter|insurance|policy|account|acct|licen[sc]e|member|id|plate|vin)"
        r"\s*(?:no\.?|number|num\.?|nr\.?|id)?\s*[:#=][\s:#=]*(?=[a-z\-/]{0,6}\d)[a-z0-9][a-z0-9\-/]{2,}",
        r"(?<![a-z])(?:mrn|pid|ssn|nhs|accession|acc|patient ?id)\s*(?:no\.?|number|nr\.?)?\s*[:#=]?\s*(?=[a-z\-/]{0,6}\d)[a-z0-9\-/]{4,}",
        r"(?<![\d.,])\d{7,}(?![.,]?\d)(?!\s?(?:bq|mbq)(?![a-z]))",
        r"(?<![\w.])[a-z]{1,5}[-_]?\d{6,}[a-z0-9]*(?![\w.])|(?<![\w.])\d{5,}[-_/]\d{2,}(?![\w.])",
        r"(?<!\d)(?:9\d|1[0-4]\d)\s*-?\s*(?:y/?o|yrs?|years?|jahre?|jahrige?r?|ans|anos|anni)(?![a-z])(?:[\s-]*old)?",
        r"(?<![a-z])p\.?\s?o\.?\s?box\s+\d+",
    )
]

#: What images show: never taken for a person but beside another part of the name.
ANATOMY = frozenset(
    "abdomen ankle aorta arm back bone brain breast carotid chest clavicle colon elbow eye face femur finger foot forearm hand head heart hip kidney "
    "knee leg liver lung mandible neck nose orbit pancreas pelvis prostate rib shoulder sinus skull spine spleen thorax thyroid toe uterus wrist "
    "phantom test ct mr us image axial sagittal coronal scout body extremity anonymous anonymized unknown".split()
)

#: A capitalised word; a full stop belongs to it only inside, behind one letter, or in the usual abbreviations, and else ends the sentence.
_CAPITAL = (
    r"(?<!\w)(?:(?:St|Ste|Sta|Mt|Dr|Prof|[A-Z])\.|[A-Z\u00C0-\u00DE\u0100-\u017F\u0391-\u03A9\u0410-\u042F][\w'’\-]*(?:\.(?=\w)[\w'’\-]*)*)"
)
#: Matches on the text as written; group 1 holds the words that must not all be clinical for the match to count.
CASED_PLACES = [
    re.compile(pattern)
    for pattern in (
        rf"\d{{1,5}}[A-Za-z]?\s+((?:{_CAPITAL}\s+){{1,4}})(?:Street|St|STREET|Avenue|Ave|AVENUE|Road|Rd|ROAD|Lane|Ln|LANE|Drive|DRIVE|Boulevard|Blvd|Court|Way|Place|Square|Sq|Terrace|Highway|Hwy|Parkway|Pkwy)\b\.?",
        r"\b([A-ZÄÖÜ][\wäöüß\-]*(?:stra(?:ss|ß)e|str\.|weg|platz|gasse|allee|laan|straat|gatan))\s*\d+(?:[ ]?[a-z]\b)?",
        rf"\b\d{{1,4}},?\s*(?:bis\s+)?(?:rue|avenue|boulevard|place|chemin|via|calle|piazza)\s+((?:de\s+|du\s+|la\s+|des\s+|l'|della\s+)*{_CAPITAL}(?:\s+{_CAPITAL})?)",
        r"\b(?:via|calle|Via|Calle|Rua|ul\.)\s+((?:[A-Z][\w'.\-]*\s+){1,3})\d{1,4}\b",
        rf"({_CAPITAL}(?:\s+{_CAPITAL})?),?\s+[A-Z]{{2}}\s+\d{{5}}(?:-\d{{4}})?\b",
        r"\b()[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}\b",
        r"\b(?:[A-Z]{1,2}-)?\d{5}[ \t]+([A-ZÄÖÜ][a-zäöüß]{3,}(?:[ \t]+[A-ZÄÖÜ][a-zäöüß]{3,})?)\b",
    )
]
_CARE = (
    r"(?:Hospitals?|HOSPITAL|Clinics?|CLINIC|Infirmary|Medical\s+(?:Center|Centre)|MEDICAL\s+CENT(?:ER|RE)|Health(?:care)?\s+(?:System|Center|Centre)|"
    r"University|UNIVERSITY|Klinikum|KLINIKUM|Krankenhaus|KRANKENHAUS|Klinik|H[oô]pital|Spital|Sanatorium|Hospice|Radiology\s+(?:Group|Associates)|Ziekenhuis|Ospedale)"
)
CASED_INSTITUTIONS = [
    re.compile(rf"((?:{_CAPITAL}[ \t]+(?:of[ \t]+|the[ \t]+|and[ \t]+|for[ \t]+|&[ \t]+)?){{1,5}}){_CARE}\b"),
    re.compile(
        rf"\b(?:{_CARE}|[A-ZÄÖÜ]\w*(?:klinikum|krankenhaus|klinik|spital))[ \t]+(?:(?:of|de|du|von|der|di|da|San|Sankt|St\.?)[ \t]+)*({_CAPITAL}(?:[ \t]+{_CAPITAL})?)"
    ),
]

#: What announces a person; the words behind it are judged by `free_text`.
TITLE = re.compile(
    r"(?<![a-z])(?:dr|prof|professor|doctor|mr|mrs|miss|ms|herr|herrn|frau|mme|mlle|monsieur|madame|sra|srta|senor|senora|dott|dottoressa|sig|signora|nurse|schwester|"
    r"pfleger|doktor|docteur)(?![a-z])\.?(?:\s*(?:med|dent|habil|phil)\.)*[ \t\u00a0]*"
)
LABEL = re.compile(
    r"(?<![a-z])(?:(?:patient|pat|pt)(?:'?s)?[\s.]*(?:name)?|name|surname|(?:last|first|given|family|maiden)\s?name|(?:referred|read|reported|dictated|signed|performed|verified|transcribed|"
    r"requested|ordered|seen|reviewed|approved|discussed|befundet|scanned)\s+(?:by|with|von)|referring(?:\s+(?:physician|doctor|md))?|ref\.?\s?(?:by|dr|phys)\.?|physician|operator|technologist|tech|mta|"
    r"radiologist|attending|surgeon|c/o|attn|contact|mother|father|spouse|husband|wife|next of kin|kin|arzt|radiologe|uberweiser|employer|author)\s*(?P<mark>[:=#])?\s*"
)
CREDENTIALS = re.compile(
    r"((?:[^\W\d_]+[.'’\-]?\s+){0,2}[^\W\d_]{2,}),?\s+(?:m\.?d\.?|ph\.?d\.?|frcr|frcp|facr|r\.?n\.?|rt\(r\)|d\.?o\.?)(?![a-z])"
)
CARET_NAME = re.compile(r"[^\W\d_][\w'\-.]*\^[^\W\d_][\w'\-.]*(?:\^[\w'\-.]*)*")
HONORED_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,6}\s?(?:様|さん|先生|氏|殿|씨|님|医生|醫師|女士|先生)")


@cache
def clinical_words() -> frozenset[str]:
    """Words that stand in clinical text on their own account, folded."""
    return frozenset(standard_data("clinical-words.json")["words"].split())


@cache
def eponyms() -> frozenset[str]:
    """Surnames that name a disease, sign or device when a clinical word stands beside them, folded."""
    return frozenset(standard_data("clinical-words.json")["eponyms"].split())


@cache
def common_words() -> frozenset[str]:
    """Both: words that, by themselves, name nobody."""
    return clinical_words() | eponyms()


@cache
def given_names() -> frozenset[str]:
    """Frequent given names, folded."""
    return frozenset(standard_data("clinical-words.json")["given_names"].split())
