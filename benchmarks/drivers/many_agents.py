"""A thousand agents with ten skills each, no two skills alike: every one is something that is done with something in some trade.

Words come from lists of verbs, of things of thirty trades, and of whom it is done for; the texts from sentences of different lengths. A
fixed seed: the same agents every time.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from agentmesh.core.agent import Agent, Skill

_TRADES = """
freight: container pallet waybill customs-declaration vessel truck depot tariff manifest consignment berth trailer
pharmacy: prescription vaccine dosage interaction blister inventory-shortage recall ampoule generic ointment syringe allergy
brewing: mash wort hop-addition keg fermentation yeast-strain cellar bottling-line malt tasting tap brew-log
forestry: stand timber felling-plan seedling wildfire-risk trail sawmill pulpwood drone-survey boundary pest thinning
dentistry: crown x-ray implant hygiene-visit aligner filling recall-list impression sedation chart whitening gum
shipping-insurance: hull cargo-claim average-adjustment surveyor premium-table war-risk salvage bordereau slip cover deductible loss-run
museums: loan-agreement exhibit catalogue-entry conservation-report provenance gallery-plan audio-guide ticket archive-box sculpture
    school-visit donor
aviation: airframe crew-roster slot fuel-uplift turnaround baggage-belt de-icing maintenance-log gate weather-brief checklist hangar
publishing: manuscript proof royalty-statement cover-design isbn print-run author-contract review-copy index translation-right blurb
    backlist
farming: herd milking-record field irrigation harvest subsidy-form silo tractor soil-sample feed-ration fence crop-rotation
telecoms: sim cell-tower roaming-bill fibre-order router porting-request outage-ticket spectrum voicemail bundle splice number-range
banking: mortgage standing-order chargeback overdraft sanction-hit branch-visit statement wire-transfer escrow collateral card-limit
    savings-plan
hospitality: reservation room-rate minibar housekeeping-round banquet guest-complaint loyalty-point lobby-shift sauna breakfast-buffet
    key-card overbooking
construction: scaffold concrete-pour blueprint site-diary crane permit-of-work bill-of-quantities subcontractor defect-list rebar
    excavator handover
courts: docket hearing subpoena bail-bond verdict transcript juror exhibit-list appeal filing-fee warrant mediation
railways: timetable platform signal-fault carriage season-ticket freight-path track-closure conductor-shift switch delay-report
    level-crossing dispatcher
waste: bin-round landfill recycling-rate hazardous-drum skip composting weighbridge-ticket collection-route sludge scrap incinerator
    litter
gaming: leaderboard cheat-report matchmaking asset-bundle season-pass patch-note lobby loot-table esports-bracket avatar save-file
    moderator
fashion: lookbook fabric-swatch size-run sample-sale garment runway-show returns-rate stitching-fault collection trend-report showroom
    hangtag
water: reservoir leak-survey hydrant chlorine-level pump-station sewer-blockage meter-route flood-gauge pipe-burst filter tariff-band
    turbidity
veterinary: kennel vaccination-card spaying herd-visit microchip paw-x-ray anaesthesia parasite litter-check diet-plan ultrasound
    quarantine
film: storyboard casting-call dailies location-permit stunt colour-grade call-sheet prop subtitle-track foley-session trailer-cut
    wrap-party
mining: drill-core ore-grade blast-plan haul-truck ventilation-survey tailings-dam assay shaft-inspection conveyor royalty-return
    stockpile seismic-event
elections: ballot polling-station voter-roll recount observer-badge candidate-list postal-vote turnout-map district count-sheet
    complaint campaign-return
sports-club: fixture membership-fee training-slot referee pitch-booking injury-log kit-order tournament-draw coach-licence newsletter
    trophy locker
chemistry: reagent titration safety-sheet spectrum-reading fume-hood sample-vial catalyst reaction-yield solvent-waste batch-record
    ph-probe chromatogram
call-centre: queue-length callback script-change agent-shift recording-review escalation wallboard survey-score headset wrap-code
    ivr-menu transfer
charity: donation-receipt volunteer-shift grant-report food-parcel gift-aid fundraising-run shelter-bed beneficiary pledge legacy
    street-collection sponsor
bakery: sourdough-starter oven-slot cake-order flour-delivery allergen-label croissant-dough bread-count proofing-time icing pastry-case
    tasting-box roll
parking: permit-zone barrier-fault ticket-appeal season-pass camera-feed bay-sensor tow-request payment-kiosk occupancy disabled-bay
    tariff-change patrol
"""
VERBS: Mapping[str, tuple[str, str]] = {
    "register": ("Registers", "records"), "cancel": ("Cancels", "changes"), "inspect": ("Inspects", "quality"),
    "forecast": ("Forecasts", "planning"), "price": ("Works out the price of", "costs"), "compare": ("Compares", "analysis"),
    "assign": ("Assigns people to", "planning"), "audit": ("Audits", "compliance"), "label": ("Labels", "records"),
    "photograph": ("Documents with pictures", "records"), "translate": ("Translates papers about", "languages"),
    "escalate": ("Escalates trouble with", "support"), "summarise": ("Sums up what happened with", "reports"),
    "renew": ("Renews", "changes"), "trace": ("Traces the history of", "analysis"), "digitise": ("Digitises", "records"),
    "optimise": ("Finds a better way for", "planning"), "certify": ("Certifies", "compliance"), "train": ("Trains staff on", "people"),
    "insure": ("Arranges cover for", "risk"), "dispose": ("Disposes of", "changes"), "calibrate": ("Calibrates", "quality"),
    "publish": ("Publishes", "reports"), "reconcile": ("Reconciles", "costs"), "allocate": ("Allocates", "planning"),
    "benchmark": ("Measures against others", "analysis"), "appeal": ("Writes appeals about", "support"),
    "simulate": ("Simulates", "analysis"),
}  # fmt: skip
TRADES: Mapping[str, Sequence[str]] = {
    trade: things.split()
    for trade, _, things in (line.partition(": ") for line in _TRADES.replace("\n    ", " ").strip().splitlines())
}
"""A trade, and the things that are dealt with in it."""
FOR = (
    "for small branches", "in the Nordic countries", "at night and on Sundays", "for new partners", "after an incident", "before year end",
    "with the regulator's forms", "for the board", "in three languages", "for seasonal staff", "by the hour", "across all sites",
    "when somebody complains", "from a scanned page", "with photographs", "within one working day", "for auditors", "in bulk",
)  # fmt: skip
MORE = (
    "", "", "Asks for what is missing.", "Gives a table with one row each and a note on what stands out.",
    "Keeps the owner informed until it is done.",
    "Knows the rules of the last five years.", "Answers with reasons and sources.", "Works on the shared calendar.",
)  # fmt: skip


def many_agents(count: int = 1000, each: int = 10, seed: int = 1) -> list[Agent]:
    """The agents; of one trade each."""
    rng = random.Random(seed)
    left = {}
    for trade, things in TRADES.items():
        left[trade] = [(verb, thing) for verb, thing in itertools.product(VERBS, things)]
        rng.shuffle(left[trade])
    found = []
    for number in range(count):
        trade = max(left, key=lambda one: (len(left[one]), one))
        skills = [_skill(rng, trade, *left[trade].pop(), f"{trade}-{number}") for _ in range(each)]
        title = f"{trade.replace('-', ' ').title()} {rng.choice(('desk', 'office', 'assistant', 'team', 'service'))} {number}"
        found.append(Agent(
            f"{trade}-{number}", title, f"Does {trade.replace('-', ' ')} work {rng.choice(FOR)}.", tuple(skills), peer=True,
            streaming=rng.random() < 0.8, price=round(rng.random(), 2),
        ))  # fmt: skip
    return found


def _skill(rng: random.Random, trade: str, verb: str, thing: str, agent: str) -> Skill:
    does, kind = VERBS[verb]
    name = thing.replace("-", " ")
    whom, more = rng.choice(FOR), rng.choice(MORE)
    example = f"Please {verb} the {name} {rng.choice(FOR)}"
    return Skill(
        f"{verb}-{thing}", f"{verb.title()} {name}", f"{does} {name} {whom}. {more}".strip(), "", (trade, kind),
        (example,) if rng.random() < 0.6 else (), agent=agent,
    )  # fmt: skip
