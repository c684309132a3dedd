"""Words for persons and for things, from WordNet 3.1: core/prompts/persons.txt and things.txt.

    python benchmarks/lexicon.py FOLDER    # WordNet's dict folder, with index.noun and data.noun

A word is for a person if its first sense is (lexicographer file 18, noun.person), and no adjective
of this spelling is commoner in WordNet's counts. Lines below add what WordNet lacks or counts
otherwise, as prompts use it.
"""
from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

PLACE = Path(__file__).resolve().parent.parent / "core" / "prompts"
PERSON = 18
THINGS = {5: 0, 6: 0, 10: 1, 13: 1, 15: 0, 17: 0, 19: 1, 20: 1, 27: 1}  # file: least count in WordNet's texts
MORE_PERSONS = """anime-girl astronaut athlete audience avatar band barista biker blogger bodybuilder boxer
    boyfriend broker caregiver cashier ceo cheerleader choir cleaner clown coder cop cosplayer couple cowgirl
    creator crew crowd cto cfo camper scout designer developer dj driver drummer elf esthetician everybody everyone
    family farmer firefighter freelancer friend gamer gang geek girlfriend goalkeeper goblin group guitarist
    hacker hairdresser hipster human influencer instagrammer instructor janitor jogger keyboardist kid lady
    librarian lifeguard lineman mathematician mechanic mermaid model mom dad neighbor neighbour nun officer orc
    paladin paramedic parent people performer person pharmacist photographer pianist podcaster police programmer
    queen rapper rapunzel rider rogue scientist sibling skateboarder skater skier snowboarder somebody someone
    squad stripper stuntman stuntwoman superhero superheroine supervillain surgeon swimmer team technician
    teenager teen therapist tiktoker toddler trainer trooper tutor twin vampire vet veterinarian victim vigilante
    villager vlogger wanderer warlock wizard woman worker xenobiologist yogi youth youtuber zookeeper receptionist
    housekeeper sorceress necromancer paramedic beautician stylist tattooist welder electrician caretaker
    senior elder adult official executive assistant patient pedestrian attendant criminal master mystic native
    civilian diplomat pensioner retiree commuter shopper protester protestor marcher backpacker hiker climber
    kayaker rower fencer wrestler sprinter golfer bowler batsman striker anchor angel fairy demon giant dwarf
    samurai ninja viking gladiator centurion jedi android-user engineer researcher analyst consultant
    accountant intern trainee apprentice ranger operator
    teller marine agent principal founder barber midfielder mason streamer cabbie mage druid medic noble swordswoman
    swordsman pharaoh forester quartet quintet orchestra re-enactor reenactor double breakdancer videographer usher groomer caver fortune-teller goalie fireman male female sweeper client fan walker empress
    aquarist beatboxer chainsmoker chocolatier collector crossfitter deejay frontman geocacher headbanger
    improviser karateka kickboxer larper luchador moderator paintballer paraglider quilter scaffolder sensei
    shoeshiner sitarist snorkeler snorkeller taikonaut telemarketer trick-or-treater ukulelist vaper
    acupuncturist banjoist detectorist mandolinist woodturner yodeler"""
NO_PERSONS = """ace alternate antique ancient base beauty being blond blonde boss-fight broad buff bum canary
    cardinal case closer club contemporary cracker crank crazy creature cutting dark dear derelict digital dragon dry
    dummy egg equal ex extra familiar favorite favourite feature fossil forward freak good great heavy hick
    honey individual infernal irregular joker juvenile king-size lamb lame light local longer lovely lush major
    maroon mate metropolitan mink minor modern mod moderate mummy mute national natural neutral noble occult
    offspring ordinary original passing peach personal pet pill plain platinum pool post power prime private
    public puppet quiet rare raw red regular relative rival rose runner-up royal safe secular second secure
    self senior-care sharp silver slow smart snake soft solid spark square stiff still strange subject sweet tan
    tiger tone toy treasure trim turkey twist ugly unfortunate unknown upright vegetable vegetarian wild wise
    worst wolf fox rabbit monkey rat skeleton pig cow dog cat bear hawk eagle spider scarecrow god goddess-statue
    number mark love flash figurehead gem doll pawn figure head hand face eye body back mouth voice style
    presence influence authority crown source supporter prey shadow pro natural-light winner best champ grace
    patron-saint holy precious variable visible yellow black white brown asian oriental green blue gold plant
    bouncer-castle heel hit hope hunk idol image jewel legend lead life mess monster myth nature nobody nothing nude
    object orient peak piece plus prize queen-size report rock salt shade sight slip snow spirit stock stone summer
    swinger tart terror tough trial venus vision waste wonder wreck yard freeman batman superman zero bright lucky tall long short cold
    mere mediterranean cosmopolitan prodigy-logo stand-in substitute minimalist impressionist expressionist cubist
    surrealist futurist realist romantic modernist symbolist pointillist fauvist naturalist
    manic melancholic cyberpunk steampunk mute amazon rover"""
OBJECTS = """hanger accumulator adapter
    adder amphisbaena applier backscratcher backstop balancer basilisk baster batter battle-axe beater bellwether
    blocker booby booster bore breaker bunny butterball calculator carrier caster chachka chameleon changer
    choker chum clone coaster cog comforter controller conveyer conveyor cooky coon crawler creep crimper
    criollo crook cub cuckoo cultivator cutter decoder decoy dike diner distributer distributor divider dodger dodo
    doormat dragger dyke eater edger ejector energizer ensign excavator fastener finder finisher fixer flack flak
    flasher fodder fruitcake gadfly gobbler goldbrick golem gopher griffon grunter gull hag hammerhead harpy harrier
    harvester hog hood hotdog hulk improver jackass juggernaut juicer jumper kelpie khan knocker loafer loggerhead
    lookout loon lounger macaroni mainstay manikin mannequin mannikin man-eater mantrap monitor nag nester nighthawk
    nipper omnivore oracle organiser organizer ostrich packrat peeler peeper peewee percher picket pinhead piranha
    pitcher pivot planner planter plunger pop pouter powerhouse predator predictor preserver primate primus printer
    puncher pusher pussycat putter quad quarry rake ratter reaper rep repeater riser rocker roly-poly romper rounder
    router scanner scrambler screw scrubber seeder selector self-starter setter shaker shaper sharpie shaver shifter
    shrew shrimp skimmer skunk slammer slasher sleeper slicer slider snapper souse spanker sphinx spiller spinner
    splicer spoiler spouter sprayer stamper steamroller stemmer stepper strawman stringer striper stroller stud
    subtracter sucker sweeper synthesiser synthesizer tacker tackle taco tattler tchotchke teaser tester thoroughbred
    thruster tilter tinker tipper toaster topper torpedo tourer tracer trailer transmitter trawler trencher trimmer
    tripper tumbler tuner turncock varmint vermin vixen walk-in warbler ward washer watchdog weasel weeder weekender
    whale whaler whirler wiggler winder winker wiper wrecker yearling mockup palette"""
MORE_THINGS = """costume costumes logo logos badge badges emblem sticker icon icons emoji poster posters franchise
    merch merchandise mug tshirt t-shirt hoodie tee avatar-frame banner billboard flyer brochure card cards magazine
    comic comics cosplay-costume movie movies film novel show anime manga series videogame game games album song
    soundtrack trailer wallpaper figurine figurines statue doll toy mannequin size style office offices shirt
    suit helmet laboratory playground keycap plushie plush funko lego skyline chess bust busts
    armour armor robe robes outfit outfits gear"""


def words(text: str) -> set[str]:
    return set(text.split())


def senses(folder: Path, part: str) -> dict[str, tuple[list[str], int]]:
    """Of each word: its senses, the commonest first, and in how many of them it was met."""
    found = {}
    for line in (folder / f"index.{part}").read_text("utf-8").splitlines():
        if not line.startswith("  "):
            fields = line.split()
            count = int(fields[2])
            found[fields[0]] = fields[-count:], int(fields[-count - 1])
    return found


MORE_NAMES = ("harry potter, hermione granger, ron weasley, luke skywalker, darth vader, princess leia, han solo, "
              "indiana jones, james bond, john wick, walter white, tony stark, peter parker, bruce wayne, clark kent, "
              "bilbo baggins, frodo baggins, lara croft, sarah connor, ellen ripley, mary poppins, dorothy gale, "
              "atticus finch, jack sparrow, forrest gump, queen elizabeth, elon musk, donald trump, barack obama, "
              "joe biden, taylor swift, serena williams, roger federer, lionel messi, cristiano ronaldo, keanu reeves, "
              "tom cruise, brad pitt, scarlett johansson, emma watson, michael jackson, michael jordan, david bowie, "
              "freddie mercury, steve jobs, bill gates, greta thunberg, frida kahlo, "
              "amy winehouse, ana de armas, angelina jolie, anya taylor-joy, ariana grande, arnold schwarzenegger, "
              "audrey hepburn, benedict cumberbatch, beyonce knowles, billie eilish, bob ross, boris johnson, bruno "
              "mars, bugs bunny, captain america, chris hemsworth, chuck norris, daenerys targaryen, dalai lama, "
              "danny devito, darth maul, david attenborough, david beckham, david lynch, donald duck, dua lipa, "
              "dwayne johnson, ed sheeran, edward scissorhands, ellie williams, emilia clarke, emma stone, emmanuel "
              "macron, ezio auditore, gal gadot, george clooney, geralt of rivia, gordon ramsay, grace hopper, "
              "hannibal lecter, harley quinn, harrison ford, harry styles, hayao miyazaki, homer simpson, hugh "
              "jackman, idris elba, jackie chan, jason momoa, jason statham, jeff bezos, jennifer aniston, jennifer "
              "lawrence, jesse pinkman, jim carrey, johnny depp, jon snow, kamala harris, kanye west, kate bush, "
              "kate middleton, kate moss, katniss everdeen, kim kardashian, king charles, kurt cobain, kylian "
              "mbappe, lady gaga, lana del rey, lebron james, lewis hamilton, leonardo dicaprio, lisa simpson, luke "
              "cage, margot robbie, marilyn manson, mark zuckerberg, master chief, matthew mcconaughey, megan fox, "
              "michelle obama, mickey mouse, miley cyrus, millie bobby brown, morgan freeman, naomi campbell, "
              "narendra modi, natalie portman, nicki minaj, nicolas cage, oprah winfrey, optimus prime, patrick "
              "stewart, pedro pascal, pope francis, post malone, prince harry, prince william, princess mononoke, "
              "princess peach, princess zelda, rick sanchez, robert downey, ruth bader ginsburg, ryan gosling, ryan "
              "reynolds, salma hayek, samuel jackson, sandra bullock, sarah palin, severus snape, shah rukh khan, "
              "sigourney weaver, simone biles, snoop dogg, spongebob squarepants, stephen king, steve carell, steve "
              "irwin, super mario, sydney sweeney, thomas shelby, tifa lockhart, tilda swinton, timothee chalamet, "
              "tina turner, tom hardy, tom holland, tommy shelby, tupac shakur, tyler durden, usain bolt, uma "
              "thurman, venus williams, volodymyr zelensky, wednesday addams, whitney houston, will smith, willy "
              "wonka, winnie the pooh, winona ryder, wonder woman, xi jinping, zinedine zidane")


def main() -> None:
    folder = Path(sys.argv[1])
    kinds, spelled, names = {}, {}, set()
    for line in (folder / "data.noun").read_text("utf-8").splitlines():
        if not line.startswith("  "):
            fields = line.split(" | ")[0].split()
            kinds[fields[0]] = int(fields[1])
            spelled[fields[0]] = {fields[4 + 2 * i] for i in range(int(fields[3], 16))}
            if kinds[fields[0]] == PERSON and "@i" in fields:  # an individual
                names |= {word.replace("_", " ").casefold() for word in spelled[fields[0]]
                          if re.fullmatch(r"[A-Z][a-z]+(_[A-Za-z]+){1,2}", word)}
    nouns = senses(folder, "noun")
    adjectives = senses(folder, "adj")
    persons, things = set(), set()
    for word, (offsets, counted) in nouns.items():
        first = offsets[0]
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", word) or len(word) < 3 or word not in spelled[first]:
            continue  # of several words, or a name
        kind = kinds[first]
        if kind == PERSON and counted >= adjectives.get(word, ((), 0))[1]:
            persons.add(word)
        elif kind in THINGS and counted >= THINGS[kind] and not word.endswith("ing"):
            things.add(word)
    persons = (persons - words(NO_PERSONS) - words(OBJECTS)) | words(MORE_PERSONS)
    things = (things | words(MORE_THINGS) | words(OBJECTS)) - persons
    for name, found in (("persons", persons), ("things", things), ("names", names | set(MORE_NAMES.split(", ")))):
        text = textwrap.fill(("; " if name == "names" else " ").join(sorted(found)), 99, break_on_hyphens=False)
        (PLACE / f"{name}.txt").write_text(text + "\n", "utf-8")
        print(name, len(found))


if __name__ == "__main__":
    main()
