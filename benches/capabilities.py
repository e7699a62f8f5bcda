"""Made capabilities: many distinct ones, the same for a seed everywhere.

No data set is needed: words of everyday work are put together. Ten thousand agents share words (so
that rarity, candidates and ties are as among real ones), and hardly two capabilities are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sira.v1 import registry_pb2

_VERBS_WORDS = """
analyze annotate archive audit balance book calibrate caption check classify clean cluster compare
compress convert count crop decode detect diagnose digitize draft encrypt estimate evaluate
explain extract filter forecast format generate grade group identify index inspect label locate
measure merge monitor normalize optimize parse plan predict price rank read reconcile record
redact render repair report reserve resize restore retrieve review route sample schedule score
search segment select simulate sort split stabilize summarize synthesize tag trace track
transcribe translate trim upscale validate verify visualize
"""
_VERBS = _VERBS_WORDS.split()
_THINGS_WORDS = """
abstracts accidents accounts addresses aerial-photographs aircraft alarms allergies animals
antennas appointments articles assays audits backups bacteria barcodes batteries beams bees bills
bridges brochures budgets buildings bus-timetables buttons cables calendars cargo carpets cattle
cells certificates charts chest-x-rays chromosomes circuits claims clouds coastlines coins
comments complaints components concerts containers contracts conversations conveyor-belts cookies
crops crossings currencies customers dams databases defects deliveries devices diagrams dialogues
diets documents doors drawings drones earthquakes electrons elevators emails engines envelopes
equations essays exams exhibits expenses fabrics faces factories fares farms fences ferries fields
films fingerprints fires fish flights floods floor-plans flowers forests forms fractures freight
furnaces galaxies gardens gears genes gestures glaciers glasses grades grants graphs guitars
harbours headlines heartbeats hedges helmets highways holidays homework hospitals hotels houses
icebergs images implants insects interviews inventories invoices islands journeys kitchens knots
labels lakes landslides languages laps lawns lawsuits leaves lectures lenses letters libraries
lifts logs lyrics machines magazines mammograms maps markets matches meals meetings melodies menus
metals meters microscope-slides minerals mines molecules mortgages motors mountains murals muscles
museums newspapers notes nurses objects oceans offers orbits orchards orders organs packages
paintings parcels parks passports patents patients payments pedestrians pensions permits
phone-calls photos pipelines plants plates podcasts poems policies pollen ponds ports posters
potholes power-lines prescriptions prices proteins pumps puzzles questions rainfall receipts
recipes records reefs registers rentals reservoirs resumes reviews rivers roads robots rockets
roofs rooms routes sales samples satellites scans schools screws seats sensors sentences sewers
shelves ships signals signatures skin-lesions slides smells soils solar-panels songs speeches
sports spreadsheets stains stars statements statues stocks storms streets students subtitles
surveys switches tables tasks taxes teeth telescopes tenants tickets tides timbers tires tissues
toxins tracks trades trains transactions trees trials trucks tumours tunnels turbines tweets
valves vehicles videos viruses voices volcanoes votes voyages wages walls warehouses waste watches
waves weather weeds welds whales wheels windows wires woods words worms x-rays yachts yields
"""
_THINGS = _THINGS_WORDS.split()
_QUALITIES_WORDS = """
abandoned aerial ancient annual anonymous archived automatic broken busy calm colourful commercial
compressed confidential crowded daily damaged digital distant domestic duplicate early encrypted
expired faded faint fast foreign fragile frozen handwritten hidden historical hourly household
illegible incomplete industrial infrared legal live local long loud medical microscopic military
missing mobile modern monthly multilingual municipal narrow nightly noisy nuclear official old
outdoor overdue overlapping parallel partial public quiet rare raw recent refundable regional
remote rotated rural scanned seasonal secret short signed slow small spoken stereo streaming
submerged tall thermal three-dimensional tropical underwater unpaid unsorted urban urgent valuable
vintage virtual volatile weekly wireless
"""
_QUALITIES = _QUALITIES_WORDS.split()
_FIELDS_WORDS = """
accounting agriculture airports archaeology architecture astronomy banking beekeeping biology
botany breweries carpentry catering charities chemistry cinema civil-engineering climate-research
construction courts customs cycling dentistry ecology elections electricity-grids
emergency-services fashion film-studios finance fisheries forestry gaming gardening genealogy
geology healthcare hospitality housing human-resources immigration insurance journalism
laboratories law-firms libraries logistics manufacturing marketing mathematics media metallurgy
meteorology mining music navigation neurology nursing nutrition oceanography offices oil-rigs
ophthalmology orchestras paediatrics pharmacies physics police politics postal-services printing
procurement psychology publishing radiology railways real-estate recycling research retail
robotics sailing schools security shipping shipyards social-media software space-missions sports
statistics surgery surveying taxation taxis telecoms textiles theatres tourism traffic-control
translation universities veterinary-care warehousing water-supply wildlife wine-making zoology
"""
_FIELDS = _FIELDS_WORDS.split()
_PLACES_WORDS = """
Aberdeen Accra Amsterdam Ankara Antwerp Athens Auckland Baku Baltimore Bangkok Barcelona Basel
Beirut Belgrade Bergen Bilbao Bogota Bologna Bordeaux Bratislava Bristol Brno Bruges Budapest
Cairo Calgary Caracas Cardiff Casablanca Chennai Chicago Cologne Copenhagen Cork Cusco Dakar
Dallas Delhi Denver Detroit Dhaka Dresden Dublin Durban Edinburgh Fez Florence Fukuoka Galway
Gdansk Geneva Genoa Ghent Glasgow Graz Hamburg Hanoi Havana Helsinki Hobart Honolulu Houston
Innsbruck Istanbul Izmir Jakarta Johannesburg Kampala Karachi Kigali Kingston Kobe Krakow Kyoto
Lagos Leeds Leipzig Lima Linz Lisbon Ljubljana Lodz London Luanda Lusaka Lyon Madrid Malaga Manila
Marseille Medellin Melbourne Memphis Milan Minsk Monterrey Montreal Mumbai Munich Nairobi Nantes
Naples Nice Odense Oporto Osaka Oslo Ottawa Palermo Perth Phoenix Plovdiv Prague Quito Recife
Reykjavik Riga Rome Rotterdam Santiago Sapporo Sarajevo Seattle Seoul Seville Sofia Stuttgart
Sydney Taipei Tallinn Tampere Tbilisi Tirana Tokyo Toronto Toulouse Trieste Tripoli Tunis Turin
Utrecht Valencia Vancouver Venice Verona Vienna Vilnius Warsaw Wellington Yerevan York Zagreb
Zurich
"""
_PLACES = _PLACES_WORDS.split()
_ZONES = ("north", "south", "east", "west")


@dataclass(frozen=True, slots=True)
class Made:
    """One capability: what it says of itself, and a request that it should get."""

    text: str
    request: str


def capabilities(count: int, *, seed: int) -> Iterator[Made]:
    """Yield `count` capabilities of some 15 words, and requests that say half of it otherwise."""
    rng = np.random.default_rng(seed)

    def one(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))].replace("-", " ")

    for _ in range(count):
        verb, other, thing, quality = one(_VERBS), one(_VERBS), one(_THINGS), one(_QUALITIES)
        field, place, beside = one(_FIELDS), one(_PLACES), one(_THINGS)
        text = (
            f"{verb.capitalize()} {quality} {thing} for {field} in {place}, {other} {beside} "
            f"beside them and report what was found"
        )
        yield Made(
            text, f"please {verb} the {thing} of our {field} team in {place}, {quality} ones"
        )


def registrations(
    agents: int, each: int, *, seed: int, prefix: str = "agent"
) -> Iterator[tuple[registry_pb2.Registration, list[Made]]]:
    """Yield agents of `each` capabilities, a label `zone` of four, and what they can do."""
    made = capabilities(agents * each, seed=seed)
    for number in range(agents):
        own = [next(made) for _ in range(each)]
        asked = registry_pb2.Registration(
            name=f"{prefix}-{number:06}", version="1.0.0", labels={"zone": _ZONES[number % 4]}
        )
        for index, capability in enumerate(own):
            asked.capabilities.add(name=f"c{index}", text=capability.text)
        yield asked, own
