# ruff: noqa: E501 - one language a line
"""What announces a person in free text: words before a name and behind one, in eleven languages, folded by `name_forms.fold`.

A cue makes nobody of a word by itself: `strangers` asks for a capital letter and for a word that means nothing clinical. Three strengths:
what only a person follows ("discussed with"; then neither the ending of the word nor capitals elsewhere excuse it), what a person or a
thing follows ("with"), and what only a person does ("was informed"). PS3.15 E.3.5 leaves the method open.
"""

from __future__ import annotations

import re

#: Shorter ones are other things too: M. is Morbus in German, Monsieur in French.
_SURE_CUE_LETTERS = 5
_PARTICLES = r"\.?\s*[:=]?\s*(?:(?:van|von|de|der|den|di|da|del|la|le|el|al|bin|ibn|ter|ten|dr|prof|hr|mr|mrs)\.?\s+){0,2}$"

#: After these a person or a thing may stand.
_PREPOSITION = re.compile(r"(?:^|(?<=[\s(,;/]))(?:per|with|w/|to|by|from|for|chez)" + _PARTICLES)
#: After these only a thing stands, though the last word is one of those above.
_OF_A_THING = re.compile(
    r"(?:(?:due|exposure|exposed|secondary|resistance|resistant|allergy|allergic|reaction|superior|inferior|lateral|medial|posterior|anterior|proximal|distal|sensitivity|sensitive) to|"
    r"(?:consistent|compatible|associated|infected|infection|filled|enhanced|poisoning) with|(?:caused|compressed|surrounded|induced|poisoning|infection) by|"
    r"(?:distal|proximal|infection) from|(?:positive|negative|evaluate) for)\s+$"
)

#: After these only a person or a department stands.
_PERSON_BEFORE = re.compile(
    r"(?:^|(?<=[\s(,;/:.]))(?:"
    r"cc|copy to|copies to|call|called|calling|called to|nok|performed by|done by|made by|seen by|chez|rn|fam|family|familie|brother|sister|son|daughter|uncle|aunt|cousin|friend|neighbour|neighbor|partner|guardian|referrer|"
    r"(?:son|daughter|wife|husband|mother|father|brother|sister|child|baby|relative|carer|behalf|request|opinion|care|secretary|patient|list|clinic) of|"
    r"(?:discussed|spoke|spoken|speaking|talked|agreed|reviewed|confirmed|arranged|liaised|conversation|discussion|phone call|telephone call|meeting|consultation|appointment) (?:with|w/|to)|"
    r"(?:sent|given|faxed|emailed|mailed|phoned|telephoned|communicated|conveyed|reported|relayed|addressed|forwarded|handed|notified|results?|findings|report|images|copy|spoke|attention) to|"
    r"(?:phoned|telephoned|informed|notified|contacted|paged|bleeped|told|asked|thanks|thank you|dear|yours|regards|sincerely)|"
    r"(?:referrerin|hausarzt|hausarztin|zuweiser|zuweiserin|bruder|schwester|sohn|tochter|kollegen?|kollegin|oberarzt|oberarztin|assistenzarzt|assistenzarztin|stationsarzt|chefarzt|patientin|rucksprache|ehefrau|ehemann)|"
    r"(?:rucksprache|absprache|besprochen|gesprochen|telefonat|telefoniert|gesprach|vereinbart|abgesprochen|diskutiert|demonstriert) mit|"
    r"(?:uberwiesen|zugewiesen|befundet|angefordert|untersucht|gesehen|veranlasst|gewunscht|vidiert|freigegeben|diktiert|geschrieben|bestatigt|beauftragt|wunsch|bitte|anordnung|anforderung|auftrag|zuweisung) (?:von|durch)|"
    r"(?:befund|bericht|bilder|cd|mitteilung|telefonisch|fax|mitgeteilt|ubermittelt|weitergeleitet|ergebnis) an|"
    r"m|patiente|confrere|consoeur|(?:discute|vu|revu|relu|concertation|accord|parle) avec|"
    r"(?:demandee?|adressee?|relue?|vue?|validee?|signee?|dictee?|prescrite?|realisee?|examinee?|interpretee?|lue?) par|(?:transmise?|communiquee?|adressee?|faxee?|telephonee?|annoncee?) a|"
    r"sr|sra|srta|snr|sig|sig\.ra|pani?|pana|mevr|mevrouw|mw|dhr|hr|fr|fru|frk|dra|dott|dott\.ssa|mgr|lek|tov|kyria|kyrios|paciente|paziente|pacjent|pacjentka|pacient|pacientka|patienten|potilas|"
    r"(?:comentado|hablado|discutido|consultado|revisado|valorado|acordado|conversado|falado|revisto|combinado) (?:con|com)|"
    r"(?:solicitad|remitid|derivad|pedid|firmad|realizad|revisad|vist|leid|referid|informad|encaminhad|laudad|indicad)[oa] (?:por|pelo|pela|al?|ao)|"
    r"(?:discusso|parlato|concordato|rivisto|condiviso|sentito) con|(?:richiest|inviat|refertat|vist|eseguit|firmat|segnalat|valutat)[oa] (?:da|dal|dalla|al?|alla)|"
    r"(?:besproken|overlegd|overleg|afgesproken|gesproken|ruggespraak) met|(?:aangevraagd|verwezen|gezien|verslagen|beoordeeld|ingestuurd) door|"
    r"(?:konsultowano|konsultacja|omowiono|uzgodniono|rozmowa) ze?|(?:skierowan[yae]|zlecon[yae]|opisan[yae]|wykonan[yae]|badan[yae]|zlecil|opisal)(?: przez)?|"
    r"(?:diskuterat|diskuterad|diskuteret|diskutert|samtal|samtale|konsultation|avtalat|rad[fg]ort) med|(?:remitterad|remittert|henvist|granskad|granskat|bedomt|undersokt|besvarad|sedd|signerad) (?:av|af)"
    r")" + _PARTICLES
)  # fmt: skip

#: What only people do or undergo.
_PERSON_BEHIND = re.compile(
    r"(?:'s)?,?\s+(?:(?:was|were|has been|have been|is|has|will be|to be|being|wurde|wird|ist|hat|a ete|est|ha sido|fue|e stato|e stata|foi|is|werd|zostala?|har|blev|ble)\s+)?"
    r"(?:called|informed|notified|contacted|told|telephoned|phoned|paged|aware|agrees|agreed|wants|wanted|asks|asked|says|said|complains|complained|denies|denied|insists|prefers|refused|declined|"
    r"requested(?!\s+by)(?=\s+\w)|requests(?=\s+\w)|thinks|advised(?!\s+(?:by|to))|"
    r"(?:telefonisch\s+|ausfuhrlich\s+)?(?:besprochen|abgesprochen|telefoniert)|informiert|benachrichtigt|verstandigt|angerufen|bittet|wunscht|klagt|verneint|befundete|"
    r"prevenue?|informee?|avertie?|souhaite|signale|"
    r"informad[oa]|avisad[oa]|llamad[oa]|solicita|refiere|pide|avvisat[oa]|informat[oa]|chiamat[oa]|riferisce|contatad[oa]|"
    r"gebeld|geinformeerd|ingelicht|klaagt|poinformowan[ya]|powiadomion[ya]|prosi|zglasza|informerade?s?|kontaktade?s?|informert|orienteret)(?!\w)"
)

#: Who is not a person though a person could stand in its place.
_ROLES = frozenset(
    "ward clinic department dept hospital radiology surgery medicine oncology team office reception registrar consultant attending resident doctor physician nurse sister staff "
    "referrer clinician patient family relatives parents mother father wife husband brother son daughter caller provider provider's technologist radiographer sonographer "
    "angehorige angehorigen patient patientin stationsarzt stationsarztin hausarzt hausarztin zuweiser eltern mutter vater ehefrau ehemann betreuer pflege station klinik ambulanz kollegen kollege kollegin "
    "notaufnahme intensivstation intensiv uberweiser therapeut team arzt arztin dienst spatdienst nachtdienst vordergrund hintergrund chirurgen internisten unfallchirurgen aufnahme "
    "medecin medecins service urgences famille equipe infirmiere confrere interne reanimation collegue patiente "
    "medico servicio urgencias familia equipo enfermera paciente planta consulta reparto medici pronto soccorso curante familiari equipe paziente servico familiares enfermaria "
    "huisarts arts afdeling familie verpleging aanvrager patient spoedeisende lekarz oddzial rodzina pacjent pacjentka lakare avdelning vardcentral anhoriga lege avdeling "
    "monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday".split()
)
_ROLE_ENDING = re.compile(
    r"[a-z]{3}(?:ology|ologie|ologia|ologist|ologen?|ologin|iatry|iatrie|iatria|surgery|surgeons?|chirurgie|chirurgia|klinik|ambulanz|praxis|arzt|arztin|arzte|station|abteilung|aufnahme|zentrum|dienst|"
    r"therapie|therapeut|schwester|pfleger|personal|heilkunde|medizin|krankenhaus|leitstelle|pflegeheim|altenheim|wohnheim|kinderheim|bereich|kreissaal|schockraum)$"
)
#: Words of medicine that no list holds, even behind what a person usually follows; no surname ends so.
_MEDICAL_ENDING = re.compile(
    r"[a-z]{2}(?:itis|itides|pathy|pathie|ectomy|ektomie|otomy|ostomy|plasty|plastik|graphy|graphie|scopy|skopie|trophy|trophie|plegia|algia|algie|lysis|stenosis|stenose|ectasia|ektasie|"
    r"genesis|mycin|cillin|coccus|cocci|bacter|bacterium|myces)$"
)


def _is_a_role(folded: str, after: str) -> bool:
    # A ward has a number or a letter; else Ward is somebody.
    is_somebody = folded == "ward" and re.match(r"\s*(?:\d|[a-z](?!\w))", after) is None
    return not is_somebody and (folded in _ROLES or _ROLE_ENDING.search(folded) is not None)


def names_a_person(before: str, folded: str) -> bool:
    """Whether the word `folded` behind the folded text `before` is somebody, though it may be a clinical word elsewhere ("told Baker")."""
    if folded in _ROLES or _ROLE_ENDING.search(folded):
        return False
    cue = _PERSON_BEFORE.search(before)
    return cue is not None and len(cue.group().strip(" .:=")) >= _SURE_CUE_LETTERS and not cue.group().startswith("called")


def follows_a_sure_cue(before: str) -> bool:
    """Whether the folded text `before` ends with what only a person or a department follows; "M." alone is Morbus too."""
    cue = _PERSON_BEFORE.search(before)
    return cue is not None and cue.group().strip(" .:=") != "m"


def may_name_a_person(before: str, after: str, folded: str, *, is_thing: bool) -> bool:
    """The same of a word that is no name we know; `is_thing` if it stands in clinical texts as a thing. How the rest is written says nothing."""
    if _is_a_role(folded, after) or _MEDICAL_ENDING.search(folded):
        return False
    if _PERSON_BEFORE.search(before):
        return True
    if is_thing:
        return False
    if _PERSON_BEHIND.match(after):
        return True
    return _PREPOSITION.search(before) is not None and _OF_A_THING.search(before) is None
