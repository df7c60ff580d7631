# ruff: noqa: E501 - lists of texts
"""Somebody whom no header announces makes a text doubtful; eponyms, makers and sequences do not."""

from __future__ import annotations

import pytest

from compliance.free_text import TextCleaner
from compliance.identity_terms import IdentityTerms
from compliance.strangers import looks_like_a_person
from compliance.text_patterns import clinical_words

CLEANER = TextCleaner(IdentityTerms())

STRANGERS = [
    "CT CHEST Peter Brown", "CT CHEST Okonkwo, Chinedu", "CT CHEST Schneider Ulrike", "CT abdomen García", "Rossi", "IVANOVA CT HEAD", "CT HEAD VAN DER BERG JOOST",
    "o'connor siobhan ct head", "discussed with van der Berg", "discussed w/ O'Connor 10:15", "images to Papadopoulos by courier", "cc: Andersson", "cc Zorvathine", "Horvath's scan",
    "per Dubois", "family Takahashi", "D. Whitaker", "Kowalska A.", "Brown, P", "RN Mueller", "Brown-san", "accompanied by Chinedu", "call Quillan when done", "Q. Zorvathine",
    "Zorvathine was called at 14:20", "Zorvathine notified", "Zorvathine requested comparison", "on behalf of Zorvathine", "wife of Zorvathine", "phoned Zorvathine",
    "discussed with Baker", "spoke to White", "informed Crohn", "nach Rücksprache mit Zorvathine", "mit Zorvathine besprochen", "überwiesen von Zorvathine", "Patientin Zorvathine unruhig",
    "Befund an Zorvathine gefaxt", "vu avec Zorvathine", "demandé par Zorvathine", "patiente Zorvathine agitée", "paciente Zorvathine inquieto", "solicitado por Zorvathine", "Sr. Zorvathine atendido",
    "paziente Zorvathine agitato", "richiesto da Zorvathine", "discutido com Zorvathine", "besproken met Zorvathine", "aangevraagd door Zorvathine", "konsultowano z Zorvathine",
    "skierowany przez Zorvathine", "Pan Zorvathine badany", "remitterad av Zorvathine", "Fru Zorvathine har smärta", "ct head aschauer", "CT HEAD VENDITTI",
    "CT Venditti Kidney", "MRI Venditti tumor follow-up",
    "CT Nguyen, signs of PE", "Hernandez disease stable since 2020", "CT Kowalczyk's pneumonia", "Venditti palsy left arm", "Nguyen signs consent", "Cc: Venditti, signs of PE",
    "Hernandez, criteria met", "Garcia, Krankheit unklar", "follow up Hernandez's lymphoma", "Syndrome Venditti", "Venditti-Parkinson disease", "Perrin disease stable",
    "cc Grover disease stable", "Andersson was seen", "Jordan's scan", "CT Georgia", "per France", "cc Ward",
    "CT Zorvathine's kidney", "called RN Zorvathine", "CC Zorvathine", "NOK Zorvathine", "HR Zorvathine", "FAM Zorvathine", "RN Zorvathine informed", "cc MCDonagh", "per O'BRien",
    "With Zorvathine", "By Zorvathine", "Report To Zorvathine", "CT With Zorvathine", "sister Zorvathive", "per Zorvance", "called Zorvella", "brother Zorvoma", "called Windvarheim",
    "injected by Zorvathine", "contact with Zorvathine",
    "Clark", "Konstantinopoulos", "ЗАХАРЧЕНКО КТ", "Hausarzt Zorvathine", "brother Thi Nguyen",
]  # fmt: skip
NOBODY = [
    "Parkinson disease", "Clark level IV", "Hill-Sachs lesion", "Caldwell view", "Baker cyst", "Graves disease", "Bell's palsy", "T2 tse Dixon", "SOMATOM Force", "GE Optima CT660", "Philips Ingenia",
    "CT with Omnipaque", "Compared with Prior", "AX T1 FLAIR +C", "t2_vibe_dixon_cor", "Lewis view", "CT HEAD WITHOUT CONTRAST", "May be benign", "by Siemens Healthineers", "White matter lesions",
    "MR Brain w/o contrast", "Virchow node", "Taylor view", "post Lasix", "KNEE LEFT", "Mb. Crohn", "1st metatarsal", "L. Knee",
    "compression ratio 4.05 [From ELSCINT by DICOMatic 1.7 rev-3b]", "Germany", "Franklin disease with failed remission", "Claude syndrome", "Maladie de Hansen",
    "Infection due to Cryptostroma", "Fever With Rigors", "Poisoning By Tetracyclines", "Angiography With Fractal Runoffs", "mit Angehörigen besprochen", "Rücksprache mit Stationsarzt",
    "discussed with Radiology", "called to Ward 7", "informed the Registrar", "überwiesen von Hausarzt", "M. Bechterew", "MR Enteroklysma",
    "Hashimoto's thyroiditis", "Budd-Chiari syndrome", "Waldenström macroglobulinemia", "Hailey-Hailey disease", "Meissner's plexus", "Harada disease", "maladie de Hansen", "Morbus Ormond",
    "SR Enteroklysma", "Hypoxia With Hypercapnia", "called to Ward 7", "Transferred from Boston", "positive for Enteroklysma",
]  # fmt: skip


#: As departments of seven countries write them; nobody is named.
DESCRIPTIONS = [
    "Thorax Übersicht in zwei Ebenen",
    "Rechtes Handgelenk dorsopalmar",
    "Linkes Kniegelenk a.p. und seitlich",
    "Abdomen Leeraufnahme im Stehen",
    "Obere Extremität, Unterarm links",
    "V.a. Fraktur bei Sturz auf die Hüfte",
    "Zustand nach Metallentfernung, Verlaufskontrolle",
    "MRT Lendenwirbelsäule mit Kontrastmittel",
    "CT Schädel nativ, Ausschluss Blutung",
    "Kopf-Hals-Angiographie, Frage nach Stenose",
    "Kein Nachweis einer Raumforderung. Leichte Degeneration im Segment L4/5.",
    "Bekannte Sarkoidose, Frage nach Befunddynamik",
    "Pankreaskopf unauffällig, Ductus Wirsungianus nicht erweitert",
    "Mammographie beidseits, Screening",
    "Szintigraphie der Schilddrüse",
    "Bitte um Beurteilung, OP geplant",
    "Sono Abdomen, Leber und Gallenblase",
    "Beckenübersicht tief eingestellt",
    "Hüfte rechts axial nach Lauenstein",
    "Halswirbelsäule in Funktionsstellung",
    "Röntgen Thorax, Pneumonie?",
    "Gesamtbefund: altersentsprechend",
    "Morbus Bechterew, Zustand nach Spondylodese",
    "Frage nach Lungenembolie bei Dyspnoe",
    "Irm cérébrale sans injection",
    "Radiographie du Thorax de face",
    "Scanner thoraco-abdomino-pelvien avec injection",
    "Echographie abdominale, douleurs hypochondre droit",
    "Bilan d'extension, Adénocarcinome",
    "TC de abdomen con contraste, dolor en fosa iliaca",
    "Resonancia Magnética de Rodilla Izquierda",
    "Radiografía de Tórax PA y Lateral",
    "Ecografía Hepatobiliar",
    "RX Torace due proiezioni",
    "TC Cranio senza mezzo di contrasto",
    "Risonanza Magnetica Ginocchio Sinistro",
    "RM da Coluna Lombar",
    "Tomografia de Crânio",
    "Wervelkolom Lumbaal",
    "RTG klatki piersiowej PA",
    "TK jamy brzusznej z kontrastem",
    "Rentgen hrudníku",
    "Knä vänster",
    "Pulmonary Embolism Protocol with Runoff",
    "Ankle Brachial Index, Doppler",
    "Cardiac Calcium Scoring with Gating",
    "Whole Body Bone Scan Tc99m MDP",
    "PET/CT Skull Base to Mid Thigh",
    "Lumbar Puncture under Fluoro",
    "Barium Swallow with Speech Therapy",
    "MRCP with Secretin",
    "Fetal Anatomy Scan by Ultrasound",
    "Transferred to Radiology by Ambulance",
    "Per Neurosurgery Request",
    "Compared to Previous Exam from Outside",
    "Prostate Multiparametric with Endorectal Coil",
    "Hoffa fat pad, Segond fracture, Osgood-Schlatter",
    "Sharp's criteria, Larsen's grade",
    "Meniere's disease, Sudeck's atrophy",
    "Duplex Carotis beidseits",
    "Loopogram, Nephrostogram via Nephrostomy Tube",
    "Perfusion Tmax MTT CBV CBF",
    "CTA Chest Abdomen Pelvis with Runoffs",
    "Ct Thorax For Staging Nsclc",
    "Bone Age Left Hand Greulich and Pyle",
    "Cobb's angle, Risser 4",
    "Stryker Notch view, Zanca view, Rosenberg view",
    "Tc-99m Sestamibi, Regadenoson stress",
    "Gastrografin follow-through",
    "Follow-up from Oncology, s/p Whipple",
    "Hartmann's procedure, Nissen fundoplication, Roux-en-Y",
    "Klatskin tumour, Mirizzi, Bouveret",
    "Kanavel, Quervain tenosynovitis, Dupuytren",
]


@pytest.mark.parametrize("text", STRANGERS)
def test_text_with_a_stranger_is_held_for_a_person(text: str) -> None:
    cleaned = CLEANER.clean(text)
    assert cleaned.is_doubtful
    # What is kept whole, as a maker's name is, is not judged.
    assert not CLEANER.clean(text, generic=False).is_doubtful


@pytest.mark.parametrize("text", NOBODY + DESCRIPTIONS)
def test_clinical_and_trade_words_are_nobody(text: str) -> None:
    cleaned = CLEANER.clean(text)
    assert (cleaned.text, cleaned.is_doubtful) == (text, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CT HEAD for Mrs. Kowalska ref Dr Brown", "CT HEAD for Mrs. [-] ref Dr [-]"),
        ("reported by White", "reported by [-]"),
        ("Prof. Parkinson: no change", "Prof. [-]: no change"),
        ("DR HAND", "DR HAND"),
        ("Dr CHEST", "Dr CHEST"),
    ],
)
def test_a_title_makes_a_name_of_an_everyday_word(text: str, expected: str) -> None:
    assert CLEANER.clean(text).text == expected


@pytest.mark.parametrize("word", ["Kowalski", "Zorvathine", "Venditti", "Aschauer"])
@pytest.mark.parametrize(
    "text",
    ["Mr {} was seen", "Herr {} wurde untersucht", "Mme {} signale une douleur", "Sig. {} visto oggi", "read by {}", "patient {} moved"],
)
def test_a_name_behind_a_title_goes_whatever_its_origin(word: str, text: str) -> None:
    cleaned = CLEANER.clean(text.format(word))
    assert word not in cleaned.text and cleaned.text == text.format("[-]")


@pytest.mark.parametrize(
    "name",
    [
        "Aguilar",
        "Castillo",
        "Fitzgerald",
        "Hernandez",
        "Kowalczyk",
        "Lindqvist",
        "Nguyen",
        "Okafor",
        "Papadopoulos",
        "Schneider",
        "Venditti",
        "Yamamoto",
    ],
)
@pytest.mark.parametrize("behind", ["'s", "", ","])
@pytest.mark.parametrize(
    "noun",
    [
        "signs of PE",
        "disease stable",
        "palsy left arm",
        "criteria met",
        "scale 80 kg",
        "Krankheit unklar",
        "pneumonia",
        "lymphoma",
        "syndrome",
        "tumor",
        "kidney",
    ],
)
@pytest.mark.parametrize("before", ["", "CT ", "cc ", "With ", "seen with "])
def test_no_word_for_a_disease_excuses_a_surname_that_none_has(before: str, name: str, behind: str, noun: str) -> None:
    assert looks_like_a_person(f"{before}{name}{behind} {noun}", [])


@pytest.mark.parametrize(
    "cue",
    [
        "called",
        "cc",
        "CC",
        "RN",
        "NOK",
        "sister",
        "discussed with",
        "Performed By",
        "überwiesen von",
        "vu avec",
        "solicitado por",
        "richiesto da",
    ],
)
@pytest.mark.parametrize("ending", ["ance", "ive", "ella", "oma", "ment", "ness", "ity", "ung", "heim", "ation", "ous"])
def test_behind_a_sure_cue_no_ending_excuses_a_word(cue: str, ending: str) -> None:
    assert looks_like_a_person(f"{cue} Zorvath{ending}", [])
    assert looks_like_a_person(f"{cue} Zorvath{ending} was seen by us", [])


def test_spans_already_removed_are_no_doubt() -> None:
    assert looks_like_a_person("seen by Kowalska", []) and not looks_like_a_person("seen by Kowalska", [(8, 16)])


def test_the_vocabulary_of_the_standard_is_nobody() -> None:
    """Every clinical word alone, as a capitalised descriptor, but for those that are also frequent surnames."""
    doubtful = [word for word in sorted(clinical_words()) if looks_like_a_person(word.capitalize(), [])]
    assert len(doubtful) <= 45
