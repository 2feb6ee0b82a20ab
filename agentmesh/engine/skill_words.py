"""Skill words: what of a message is compared with what skills say of themselves, and what each word counts.

The words of a message are those of somebody at work, not those of a program's interface: `engine.thesaurus`, which is made for tools,
lets `get` stand for fifteen verbs and finds something for everything. Here what nobody does has to be told from what somebody does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from agentmesh.core.agent import Message
from agentmesh.engine.words import SHORT, STOP, stem, words

TEXT: Final = 4000
"""Characters that are read of a message, and of one text of a card."""
PARTS: Final = 32
"""Different words of a message that are looked for, the first ones."""
WEAK: Final = 0.35
"""What a word counts that every second message has, whatever it is about."""
LIKE: Final = 0.6
"""What a word of like meaning counts beside the word itself."""

_WEAK: Final = """
about after again all also always am another any anybody anyone anything away back bad become before begin behind best better between
big both bring call came chapter check come company day different each else end enough even ever every everybody everyone everything
far few find first five four free friday from full get give go good great half happen hard help here high hour how keep kind know
large last late lately later least left less let like line list little long look lot low make many matter maybe mean minute monday
month more morning most much must name near need never new next nice night nobody none not nothing now number off often old once one
only open other out over own part people person pick place point put quick quite ready really right same saturday save say second see
seem sell send set several shape short show side since six small somehow soon start still sunday sure take talk tell ten than thing
think three through thursday time today together told tomorrow tonight too top tuesday turn two under until use very wait want watch
way wednesday week well went whole within without word work world write wrong year yes yesterday yet
"""
_STOP: Final = (
    "dear hello hi thank thanks regards cheers ok okay ve re ll don doesn didn isn aren wasn weren won t s d m"
)

_SAME: Final = """
refund reimburse reimbursement / bill invoice / invoice bill charge / pay payment paid / instalment installment rate / card visa
mastercard / password passphrase passcode / login log sign signin / employee staff colleague / resign leave quit leaver / access
permission right rights / parcel package shipment / ship freight send / deliver delivery arrive / damage broken crush / flight fly plane
airplane / hotel room accommodation / trip travel journey / vacation holiday leave off / sick ill illness sickness flu / salary wage pay
payslip / hire recruit recruiting / job position vacancy role / advert advertisement ad posting / candidate applicant application / cv
resume curriculum / boss manager / laptop computer notebook / wireless wifi wi / printer print paper / phishing suspicious scam spam /
outage down / bug defect crash fault / repair fix / test tests / library dependency package / upgrade update bump / chart plot graph
draw / predict forecast / spreadsheet table csv excel / duplicate same / anomaly unusual outlier / contract agreement / confidentiality
nda / erase delete remove / rent lease rental / newsletter subscriber / ad banner picture / image photo picture / quote offer quotation
/ lead prospect / rival competitor competition / dish meal lunch food / ingredient grocery / portion serving / allergy allergen allergic
/ doctor physician dr / medicine medication drug tablet pill prescription / insurer insurance / claim damage / premium cost / fraud
suspicious / flat apartment / landlord tenant / worth value appraise / scratch dent / safe safely safety / electricity power current /
solar panel photovoltaic / charge charging / co2 carbon emission / article paper journal publish / reference citation bibliography /
plagiarism copy copied / translate translation / correct proofread / spelling grammar comma / recording audio / subtitle caption /
understand plain / meeting conference / minutes transcript / remind reminder nudge / supplier vendor / buy order purchase / stock
inventory / cash liquidity / vat tax / currency exchange / equation mathematics math maths algebra / pupil school student / mark grade /
quiz question / urgent urgency / schedule plan / summarize summarise sum summary / compare comparison / cancel terminate end stop quit /
letter mail email / collect gather fetch / record register / car vehicle van auto / house home building property / phone mobile
smartphone / customer client / place location site / error mistake fault failure / broken defective faulty damaged / document file pdf /
firm company business / city town / teach explain lesson / learn practise study / search find / write draft compose / examine inspect
review / available vacant / urgent emergency immediately / danger hazard safety / warehouse stock / website page homepage site /
campaign advertising marketing / speech spoken / train rail railway / overdue due deadline / debt owe overdue / heating radiator boiler
/ water tap leak drip pipe / lift elevator / recipe cook dish meal / vegetarian vegan / patient clinic hospital / blood laboratory lab /
accident crash collision / theft steal stolen rob / storm hail flood damage / language translation english french german spanish italian
portuguese polish japanese chinese russian dutch arabic turkish greek swedish / lawyer legal law / budget cost spend spending / revenue
turnover sales / figure number metric / room office / courier collect pickup / address destination / experiment test trial / journalist
press media / song music audio / film movie video / gas electricity / roof panel / exam test quiz / lock locked unlock / request ask /
notice terminate / discount price / negotiate negotiation terms / compete rival / remote home / headset monitor keyboard mouse dock
hardware / licence license software / virus malware security
"""
"""Words that people at work use for one thing, a group between slashes. A word may stand in several."""


def _groups() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for line in " ".join(_SAME.split()).split("/"):
        group = list(dict.fromkeys(map(stem, line.split())))
        for one in group:
            found.setdefault(one, {}).update((other, None) for other in group if other != one)
    return {word: tuple(others) for word, others in found.items()}


SAME: Final[Mapping[str, tuple[str, ...]]] = _groups()
_SKIPPED: Final = frozenset(STOP | set(_STOP.split()))
_LIGHT: Final = frozenset(map(stem, _WEAK.split()))


def asked_of(message: Message) -> dict[str, tuple[float, str]]:
    """The terms of a message, what each counts, and the word as it was written. Data is read when there is no text."""
    text = message.text[:TEXT]
    if not text.strip():
        text = " ".join(_words_of_data([part.data for part in message.parts if part.is_data]))[:TEXT]
    return asked(text)


def asked(text: str) -> dict[str, tuple[float, str]]:
    """The terms of a text; see `asked_of`."""
    found: dict[str, tuple[float, str]] = {}
    for word in words(text):
        if word in _SKIPPED or word.isdigit():
            continue
        for term in SHORT.get(word, (stem(word),)):
            if term not in found:
                found[term] = (WEAK if term in _LIGHT else 1.0, word)
                if len(found) == PARTS:
                    return found
    return found


def said(text: str) -> list[str]:
    """The terms of what a card says."""
    return [stem(word) for word in words(text[:TEXT]) if word not in _SKIPPED and not word.isdigit()]


def _words_of_data(values: list[object]) -> Iterator[str]:
    """Names and short texts in data, the outer ones first."""
    left = 200
    waiting = list(values)
    for value in waiting:
        if (left := left - 1) < 0:
            return
        if isinstance(value, Mapping):
            yield from (str(name)[:100] for name in list(value)[:50])
            waiting += list(value.values())[:50]
        elif isinstance(value, list | tuple):
            waiting += list(value)[:50]
        elif isinstance(value, str) and len(value) < 500:
            yield value
