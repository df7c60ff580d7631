"""The confined child of `readgate deidentify` as the command holds it: files go to it open, and it says what became of them.

Invariants
- The child is given neither the secret nor a path (file_serve.py). What it writes goes to files without a name; who started it names them,
  by UIDs alone.
- Of what it says beside that only reasons, details and tags of closed lists are taken over.
- Every file that it is asked of has one answer, and every file to write to is named once at most: who says less, or more, is gone.
- What it wrote is not looked through a second time here, unlike the work of a worker's child (deid_child.py): a child taken over by a
  codec's bug can spoil the output of its run, and nothing else.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from compliance.confined_process import ConfinedProcess
from compliance.deid_profile import DeidProfile
from crypto.errors import RefusedContent

#: What one answer says of many files, with all that was new of identity in them.
_WORDS_BYTES_MAX = 8 << 20
_ASKED_MAX = 400_000
_UID = re.compile(r"[0-9.]{1,64}")
#: No empty part, so that no name of a file leads anywhere else.
_NAMED = re.compile(r"[0-9]+(\.[0-9]+)*")
_NAME_LENGTH_MAX = 64
_ACTIONS = frozenset("CDKUXZ")


@dataclass(frozen=True)
class FileLimits:
    """What the child may use; an instance that is late or too large is refused and the next one gets a child of its own."""

    address_space_bytes: int = 8 << 30
    seconds_per_instance: float = 300.0
    seconds_to_start: float = 60.0


class ChildGone(Exception):
    """The child is not there any more, or not asked again: with the reason code of a refusal."""

    def __init__(self, reason_code: str) -> None:
        super().__init__(reason_code)
        self.refusal = RefusedContent(reason_code, _WHY[reason_code])


_WHY = {"WORKER_DIED": "the process that read it died of it", "WORKER_LATE": "the process that read it took too long"}


class Passes(Protocol):
    """Who answers the questions of compliance/file_passes.py: a child, or whoever is asked in the same process."""

    def asked(self, question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Its answers, the last with "end"; the descriptors stay the caller's. Raises ChildGone."""
        ...

    def close(self) -> None: ...


class FileChild:
    """One child, started when first asked and again after its death. `pseudonym_of` a UID and `study_of` a UID are the caller's."""

    def __init__(
        self,
        profile: DeidProfile,
        *,
        compress: bool,
        pseudonym_of: Callable[[str], str],
        study_of: Callable[[str], dict[str, Any] | None],
        limits: FileLimits | None = None,
    ) -> None:
        self._settings = {"profile": profile.name, "options": sorted(one.value for one in profile.options), "compress": compress}
        self._pseudonym_of, self._study_of = pseudonym_of, study_of
        self._limits = limits or FileLimits()
        self._process: ConfinedProcess | None = None

    def start(self) -> None:
        """It is up, before it is first asked. Raises TimeoutError, EOFError, OSError."""
        self._started()

    def asked(self, question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        """See `Passes`."""
        try:
            process = self._started()
            process.hand(descriptors, self._deadline())
            process.send(question, b"", self._deadline())
            questions = 0
            while True:
                answer, payload = process.receive(0, self._deadline())
                if "ask" in answer or "study" in answer:
                    questions += 1
                    if payload or questions > _ASKED_MAX:
                        raise ValueError("the child asks without end")
                    process.send({"told": self._told(answer)}, b"", self._deadline())
                    continue
                # A list that is none is the death of who said it, wherever it is found out.
                list(answer["results"])
                yield answer
                if "end" in answer:
                    return
        except TimeoutError:
            self.close()
            raise ChildGone("WORKER_LATE") from None
        except Exception:
            # A broken pipe, half an answer, or an answer that is none or was made to hurt: that child is not asked again.
            self.close()
            raise ChildGone("WORKER_DIED") from None

    def close(self) -> None:
        """The child is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _told(self, asked: dict[str, Any]) -> Any:
        if "study" in asked:
            return self._study_of(str(asked["study"]))
        original = asked["ask"]
        if not isinstance(original, str) or not _UID.fullmatch(original):
            raise ValueError("no UID is asked for")
        return self._pseudonym_of(original)

    def _deadline(self) -> float:
        return time.monotonic() + self._limits.seconds_per_instance + 5

    def _started(self) -> ConfinedProcess:
        if self._process is not None and self._process.is_alive:
            return self._process
        self.close()
        compress = "compress" if self._settings["compress"] else "native"
        arguments = [str(self._limits.address_space_bytes), str(self._limits.seconds_per_instance), compress]
        process = self._process = ConfinedProcess(
            "compliance.file_serve",
            arguments,
            kind="files",
            seconds_to_start=self._limits.seconds_to_start,
            takes_descriptors=True,
            words_bytes_max=_WORDS_BYTES_MAX,
        )
        process.send(self._settings, b"", self._deadline())
        return process


def refusal_said(said: Any) -> RefusedContent:
    """What a child says of a refusal, in words of closed lists. Raises ValueError and the like where it is none."""
    # The libraries of pixels come with it: they are not for a parent who has nothing to refuse.
    from compliance.child_answer import refusal_of

    reason, detail, tag = refusal_of(said)
    return RefusedContent(reason, detail, tag=tag)


def names_said(said: Any) -> tuple[str, str, str]:
    """(study, series, instance) that a child wrote, as they may name files. Raises ValueError and the like where they are none."""
    study, series, instance = said
    if not all(isinstance(one, str) and len(one) <= _NAME_LENGTH_MAX and _NAMED.fullmatch(one) for one in (study, series, instance)):
        raise ValueError("not a name of a file")
    return study, series, instance


def counts_said(said: Any) -> dict[str, int]:
    """How often each action was taken. Raises ValueError and the like."""
    if not _ACTIONS.issuperset(said) or not all(type(count) is int and 0 <= count < 1 << 32 for count in said.values()):
        raise ValueError("not a count of actions")
    return dict(said)
