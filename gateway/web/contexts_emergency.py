"""What the page of emergency access is given; the rules of contexts.py hold here too."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.web.contexts import Choice, Shell


@dataclass(frozen=True)
class BreakGlassPage:
    """break_glass.html.j2; posts to itself: code, reason_code, text, requested_by, can_consent."""

    shell: Shell
    procedure_step_uid: str
    study: str  # modality, description and pseudonym
    reasons: tuple[Choice, ...]
    left: int  # how often this reader may still do it today
    refusal: str = ""
