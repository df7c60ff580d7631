# ruff: noqa: E501 - lists of words
"""Surnames that a disease, a sign or a score has: only names known for that, and only directly beside a word for one.

"Hashimoto's thyroiditis" is nobody, "Hernandez disease stable" and "Grover, signs of stroke" are somebody. PS3.15 E.3.5 leaves the method open.
"""

from __future__ import annotations

import re

#: What an eponym names. A part of the body stands here only if its usual name is an eponym's ("Bowman's capsule").
_NOUN = (
    r"(?:syndrom(?:e|es|s|en)?|diseases?|dis\.?|signs?|pals(?:y|ies)|paralysis|paresis|dystroph(?:y|ie)|contractures?|kontraktur|phenomen(?:on|a)|phanomen|"
    r"classification|klassifikation|scores?|scale|criteria|criterion|kriterien|anomal(?:y|ies|ie)|deformit(?:y|ies)|krankheit|erkrankung|zeichen|maladie|malformation|"
    r"fractures?|fraktur(?:en)?|fx|dislocation|luxation|lesions?|lasion|cysts?|zyste|tumou?rs?|lymphom[ae]?|sarcoma|sarkom|carcinoma|leuk(?:a)?emia|ulcers?|ulkus|abscess|hernias?|hernie|"
    r"thyroiditis|thyreoiditis|struma|ophthalmopathy|orbitopathy|enteritis|colitis|ileitis|esophagus|oesophagus|osophagus|arthritis|neuropathy|nephropathy|encephalopathy|dementia|"
    r"chorea|ataxia|epilepsy|psychosis|aphasia|amyotrophy|osteochondr(?:itis|osis)|osteodystrophy|exostosis|enchondromatosis|ankylosis|spondylitis|tenosynovitis|"
    r"impetigo|membrane|nephritis|hepatitis|an(?:a)?emia|spots?|nodes?|nodules?|knoten|edema|oedema|pneumonia|pneumonitis|gangrene|stomatitis|angina|purpura|macroglobulin(?:a)?emia|joints?|capsule|vasculitis|granulomatosis|"
    r"hyperlipoproteinemia|melanosis|erythroplasia|neuralgia|migraine|tics?|dystonia|atrophy|degeneration|diverticul(?:um|a)|divertikel|duct|triangle|canal|kanal|ligaments?|band|fascia|"
    r"valves?|ring|pouch|raum|space|foram(?:en|ina)|aqueduct|circle|vein|veins|arter(?:y|ies)|tendon|tubercle|tuberosity|angle|line|lines|linie|view|projection|method|index|ratio|"
    r"level|stage|stadium|grade|grad|type|typ|class|test|reflex|pupils?|procedure|operation|op|repair|resection|anastomosis|fundoplication|osteotomy|nails?|nagel|pins?|wires?|"
    r"rods?|screws?|catheters?|katheter|tube|drain|clamp|splint|collar|shunt|bodies|cells?|fib(?:re|er)s?|granules|plexus|patch(?:es)?|plaques?|membrane|triad|trias|tetralogy|tetralogie|"
    r"sequence|association|complex|units?|staining|stain|virus|bacillus|reaction|antigens?|antibod(?:y|ies)|hump|notch|sulcus|fissure|island|gland|glands|crisis|dysplasia|amputation|lithiasis)"
)
_KIND = r"(?:(?:type|grade|coma|optic|optical|muscular|corneal|cell|cleft|cyst|non|hereditary|juvenile|congenital|chronic|acute|mixed|spinal|cerebral|cystic) )?"
_BEHIND = re.compile(
    rf"(?:['\u2019]?s|['\u2019])?(?P<joined>(?:[-\u2013][^\W\d_]+)*)(?:['\u2019]?s|['\u2019])?(?:[ -]){_KIND}(?P<noun>{_NOUN})(?!\w)"
)
_BEFORE = re.compile(
    r"(?:^|(?<=[\s(\[,;/.]))(?P<noun>morbus|mb?\.?|maladie|syndrome|signe|sindrome|signo|segno|enfermedad|fractura|frattura|malattia|doenca|morbo|sindroma|choroba|ziekte|syndroom|"
    r"vein|canal|foramen|foramina|sphincter|ligament|circle|aqueduct|pouch|triangle|tetralogy|ampulla|space|fascia|tunnel|islets|node)"
    r"(?:\s+(?:de|du|des|di|da|do|la|van|von|of))*\s+(?:d')?$"
)


#: Frequent surnames: each only beside what is known to be its own.
_OWN_WORDS = (
    "abernethy malformation|albright syndrome osteodystrophy|aldrich syndrome|andersen disease|anton syndrome|baker cyst cysts zyste|barr body bodies virus|"
    "barth syndrome|barton fracture|bell palsy|bennett fracture|bloch syndrome|blount disease|bouchard node nodes nodules|brill disease|"
    "brunner gland glands|bruton disease|claude syndrome|cogan syndrome|conn syndrome|coombs test|cooper ligament|costello syndrome|cowden syndrome disease|"
    "cullen sign zeichen|cushing syndrome disease|day syndrome|down syndrome syndrom|duane syndrome|dubin syndrome|duke classification stage|fong disease|"
    "fordyce spots granules disease|fraley syndrome|franklin disease|fredrickson hyperlipoproteinemia classification|frey syndrome|fuchs dystrophy|"
    "garden classification type|gilbert syndrome|gilford syndrome|glasgow scale score|graves disease ophthalmopathy orbitopathy|grover disease|"
    "gubler syndrome|gunn pupil phenomenon|hailey disease|hansen disease|harada disease|harris line lines|hill lesion|jones fracture criteria|"
    "joubert syndrome|kayser ring|kearns syndrome|kell antigen|kennedy disease|kidd antigen|labbe vein|laurence syndrome|lennox syndrome|lynch syndrome|"
    "macleod syndrome|marie disease|mason classification type|mccune syndrome|meissner plexus|millard syndrome|morton neuroma|murphy sign zeichen|"
    "netherton syndrome|noonan syndrome|ormond disease krankheit|pfeiffer syndrome|potts shunt|rasmussen encephalitis|riley syndrome|rosenthal syndrome|"
    "rubinstein syndrome|sayre syndrome|schirmer test|sipple syndrome|spurling test sign|tooth disease|turner syndrome syndrom|vincent angina stomatitis|"
    "vinson syndrome|waterhouse syndrome|werner syndrome|wilson disease"
)
_OWN = {name: frozenset(nouns) for name, *nouns in map(str.split, _OWN_WORDS.split("|"))}


def is_beside_its_disease(folded: str, before: str, after: str, eponyms: frozenset[str]) -> bool:
    """Whether `folded` between the folded texts `before` and `after` names a disease, sign or score; what is joined to it must be of `eponyms` too."""
    own = _OWN.get(folded)
    if own is None and folded not in eponyms:
        return False
    behind = _BEHIND.match(after)
    if behind is not None:
        is_joined_to_eponyms = all(part in eponyms or part in _OWN for part in re.findall(r"[^\W\d_]+", behind["joined"]))
        return is_joined_to_eponyms and (own is None or behind["noun"] in own)
    before_it = _BEFORE.search(before)
    return before_it is not None and (
        own is None or before_it["noun"] in own | {"maladie", "enfermedad", "malattia", "morbus", "mb", "mb."}
    )
