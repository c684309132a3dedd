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
    queen rapper rider rogue scientist sibling skateboarder skater skier snowboarder somebody someone
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
    acupuncturist banjoist detectorist mandolinist woodturner yodeler
    aikidoka aircrew alumni archmage aromatherapist arquebusier artillerist astrophotographer axeman ballerino bannerman
    barbecuer battalion battlemage beastmaster besties biathlete bobsledder bowyer brewmaster builder buddies canyoneer capoeirista
    carabiniere carny castellan cavalry chancellor chandler charro chronomancer cinephile clammer clergy clubber
    coalminer concertmaster congregation congregant cooper cordwainer cossack crabber crewmate crewmember crocheter
    crossbowman cryomancer dabbawala decathlete dragonborn dragonslayer driller drow duo ensemble entourage
    faculty fashionista fletcher flatmate foursome garrison gearhead goth grandkid halfling harbormaster herder hierophant
    highliner hoplite humanoid infantry inker janissary jarl jouster judoka jury kendoka knifemaker landsknecht legionnaire
    llanero locals luger mamluk mariachi militia miller milker mob mosher mother-to-be mountie mudlark
    newlyweds olympian onmyoji orchardist orienteer otaku oysterman panner paparazzi paralympian parfumier partier
    pastelist patissier petrolhead pewterer picketer piercer pikeman pitman pitmaster pizzaiolo platoon posse
    praetorian prepper psyker pyrotechnician quadruplets ratcatcher realtor recycler regiment relatives replicant roadie
    rockhound ronin sandhog scavenger schoolchildren schoolkid scribe shearer sherpa shinobi shopkeep showjumper
    shrimper skald skijorer slackliner sluicer sneakerhead snowshoer spacefarer spacer spearfisher spearman spellblade
    staffer stablehand stepsibling stonebreaker summoner superfan supporters tanner tattooer technomancer templar tenor
    terraformer thatcher threesome tiefling tobogganer townsfolk townspeople trackman trawlerman trekkie triathlete
    tribespeople trio triplets troupe tubist tunneler turntablist twosome vagabond voguer waitstaff wargamer wastelander
    xenobotanist
    au_pair axe_thrower ball_carrier base_jumper baseball_batter baseball_pitcher beach_patrol bell_ringer beta_tester
    body_piercer bone_setter brick_layer bungee_jumper burger_flipper cattle_herder chimney_sweep cigar_roller
    cliff_jumper competitive_eater diamond_cutter event_planner field_hand film_extra film_star fire_breather fire_eater fire_spinner
    first_mate flight_controller football_star gem_cutter glass_blower goat_herder gold_panner grape_harvester
    ground_controller hair_braider hammer_thrower high_jumper hired_gun hooded_figure cloaked_figure robed_figure lone_figure shadowy_figure
    mysterious_figure masked_figure solitary_figure distant_figure caped_figure veiled_figure human_figure hospital_staff house_sitter ice_cutter kelp_harvester key_grip
    kitchen_staff kite_flyer knife_grinder log_roller long_jumper mission_controller movie_extra movie_star navy_seal
    net_mender nursing_staff office_staff olive_harvester opera_star organ_grinder oyster_shucker party_planner
    pea_picker pet_sitter piano_tuner placard_holder plate_spinner poi_spinner pop_idol korean_idol japanese_idol kpop_idol k-pop_idol teen_idol pop_star private_eye psychic_medium
    punk_rocker ranch_hand record_holder reindeer_herder rice_harvester rock_star running_back salt_harvester
    sales_rep seaweed_harvester set_builder sheep_herder sheep_shearer shoe_shiner shot_putter show_jumper
    sign_holder sign_spinner skeet_shooter ski_jumper ski_patrol softball_pitcher sound_mixer spirit_medium stable_hand
    stage_hand suicide_bomber surfboard_shaper sword_swallower taste_tester ticket_holder tight_end traffic_controller
    triple_jumper tv_star type_setter wait_staff wedding_planner whistle_blower whitewater_rafter wide_receiver
    window_dresser window_washer wingsuit_flyer wool_spinner yak_herder army_general military_general roman_general
    brigadier_general major_general lieutenant_general attorney_general surgeon_general four-star_general
    mail_carrier letter_carrier couch_potato nail_tech movie_buff"""
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
    manic melancholic viewer cyberpunk steampunk mute amazon rover"""
OBJECTS = """hanger sneaker lander accumulator adapter
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
    armour armor robe robes outfit outfits gear
    longship template minifigure bobblehead action_figure pumpkin carrot cereal syrup app sequoia squid clinic whistle pancake waffle burrito taco sushi ramen cookie cupcake
    muffin brownie donut doughnut croissant bagel pretzel burger lasagna popcorn lollipop sundae milkshake smoothie
    endoskeleton skull skeleton bone dummy hallmark mascot-suit paperweight snowglobe keyring magnet bookend
    action_man air_cleaner alto_sax angel_wing attic_fan australian_shepherd baby_blue-eyes baby_tooth band_aid band_saw
    belgian_shepherd black_widow blade_runner bloody_mary box_elder brake_band burglar_alarm camp_robber captain_crunch carpet_sweeper
    cassette_player cattle_guard cd_player ceiling_fan chest_protector child_abuse coffee_maker common_elder
    corporal_punishment crew_cut crew_neck cyborg_eye daddy_long daddy_longlegs demon_core destroyer_escort dutch_master
    digger_wasp double_bass dream_catcher dry_cleaners duke_university earl_grey electric_fan elf_ear elf_shelf espresso_maker
    exhaust_fan face_cream face_guard face_pack fairy_ring family_circle fan_art fan_fiction fan_made fan_palm file_server ford_explorer ford_ranger
    garden_gnome gas_giant german_shepherd giant_squid giant_sequoia giant_scallop gps_tracker granny_knot granny_smith
    green_goddess guard_hair guy_cable hostess_cupcakes human_anatomy human_body human_brain human_head human_heart hero_image hero_shot hero_banner ice_maker iron_maiden king_mackerel
    king_protea lady_beetle lady_bug lady_crab lady_finger lady_liberty lady_palm lady_slipper leaf_miner lightning_conductor
    maiden_flight maiden_pink maiden_voyage male_orchis man_cave marine_animal marine_life mason_wasp
    master_cylinder matchstick_man merchant_marine mini_cooper model_t mother_board mother_hubbard mother_ship
    mother_tongue naked_lady natural_history old_master oyster_catcher pack_rat painted_lady passenger_van person_icon
    pile_driver pilot_bit pink_lady pioneer_plaque pipe_cleaner plain_wanderer police_blotter
    police_van potter_wasp prince_albert princess_cut purple_emperor queen_anne race_runner record_player red_admiral
    red_dwarf red_giant rigger_brush rubber_band scale_model 3d_model clay_model wax_model plastic_model sailor_knot saint_bernard scarlet_runner sea_anchor sea_fan sea_squirt sea_urchin
    sheet_anchor shin_guard silent_butler silver_sage slave_cylinder snow_thrower
    splash_guard straw_man sweet_sultan table_runner text_editor tracker_app smiley_face nutcracker_soldier
    video_player mp3_player dvd_player media_player water_strider water_skater weed_killer white_admiral white_dwarf
    witch_alder witch_hazel wizard_staff bread_maker pasta_maker"""


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


MORE_NAMES = """abraham lincoln, ada wong, adam driver, adam sandler, aerith gainsborough, agatha christie, ahsoka tano,
    al     pacino, albert einstein, albus dumbledore, alexander the great, alexandria ocasio-cortez, amy
    winehouse, amy adams, ana de armas, anakin skywalker, andy warhol, angela merkel, angelina jolie, anne
    hathaway, anthony     hopkins, anya forger, anya taylor-joy, aquaman, aragorn, aretha franklin, ariana
    grande, arnold schwarzenegger, arya stark, ashton kutcher, asuka langley, atticus finch, audrey hepburn,
    avengers, backstreet boys, barack obama, bart simpson, batman, beetlejuice, bella ramsey, ben affleck,
    ben stiller, benedict cumberbatch, bernie sanders, beyonce, beyonce     knowles, beyoncé, bilbo baggins,
    bill clinton, bill gates, bill murray, bill nye, billie eilish, billie holiday, bob belcher, bob dylan,
    bob marley, bob ross, boba fett, boris johnson, brad pitt, britney spears, bruce banner, bruce lee,
    bruce wayne, bruno mars, bugs bunny, captain america, captain hook, captain kirk, captain marvel, cardi
    b, carl sagan, cate blanchett, catwoman, celine dion, cersei lannister, charles darwin, charles xavier,
    charlize     theron, chris evans, chris hemsworth, chris pratt, chris rock, christian bale, christina
    aguilera, chuck norris, cillian murphy, cinderella, claire redfield, clark kent, claude monet, clint
    eastwood, cloud strife, conan     o'brien, conor mcgregor, count dracula, cristiano ronaldo, cthulhu,
    daenerys targaryen, daisy ridley, dalai lama, daniel     craig, daniel radcliffe, danny devito, darth
    maul, darth vader, dave chappelle, david attenborough, david beckham, david bowie, david lynch, davy
    jones, deadpool, dean martin, deepika padukone, demi lovato, denzel washington, diana prince, diego
    maradona, doctor strange, doja cat, dolly parton, donald duck, donald trump, donnie yen, dorothy gale,
    draco malfoy, dua lipa, dumbledore, dwayne johnson, dwight schrute, easter bunny, ed sheeran, eddie
    murphy, edgar allan poe, edward elric, edward scissorhands, elizabeth taylor, ella fitzgerald, ellen
    degeneres, ellen ripley, ellie williams, elon musk, elvis presley, emilia clarke, eminem, emma stone,
    emma watson, emmanuel     macron, eren yeager, ernest hemingway, ethan hunt, ezio auditore, fantastic
    four, father christmas, faye valentine, florence pugh, forrest gump, frank sinatra, freddie mercury,
    freddy krueger, frida kahlo, frodo baggins, gal gadot, galileo     galilei, gandalf, gandalf the grey,
    gary oldman, genghis khan, george clooney, george harrison, george orwell, george w bush, george
    washington, geralt of rivia, ghostbusters, gojo satoru, goku, gordon freeman, gordon ramsay, grace
    hopper, grace kelly, greta thunberg, grim reaper, halle berry, han solo, hannibal lecter, harley quinn,
    harrison ford, harry potter, harry styles, hatsune miku, hayao miyazaki, heath ledger, helen mirren,
    henry cavill, hercule     poirot, hermione granger, hillary clinton, homer simpson, hugh jackman,
    humphrey bogart, ian mckellen, idris elba, indiana jones, iron man, isaac newton, jack nicholson, jack
    reacher, jack sparrow, jackie chan, james     dean, james bond, jamie oliver, jane austen, jane goodall,
    janis joplin, jason     voorhees, jason bourne, jason momoa, jason statham, jay-z, jean grey, jean-luc
    picard, jeff bezos, jenna ortega, jennifer aniston, jennifer lawrence, jennifer lopez, jeremy renner,
    jerry seinfeld, jesse pinkman, jessica chastain, jet li, jill valentine, jim     carrey, jim morrison,
    jimi hendrix, jimmy fallon, joan of arc, joaquin phoenix, joe biden, johann sebastian bach, john boyega,
    john coltrane, john connor, john f kennedy, john lennon, john mcclane, john rambo, john wick, johnny
    cash, johnny depp, jon snow, judi dench, julia roberts, julius caesar, justice league, justin
    trudeau, justin bieber, justin timberlake, kakashi hatake, kamala harris, kanye west, kate bush, kate
    middleton, kate moss, katniss everdeen, katy     perry, keanu reeves, keira knightley, keith richards,
    ken watanabe, kendrick lamar, kevin hart, kim     kardashian, kim jong un, king arthur, king charles,
    kobe bryant, krampus, kristen stewart, kurt cobain, kylian mbappe, kylo ren, lady     gaga, lana del
    rey, lara croft, larry david, lebron james, legolas, leon kennedy, leonardo     dicaprio, leonardo da
    vinci, levi ackerman, lewis hamilton, lex luthor, light yagami, lionel messi, lisa simpson, lois lane,
    lord     voldemort, louis armstrong, lucy liu, luke cage, luke skywalker, lupita nyong'o, mads
    mikkelsen, maggie smith, mahatma gandhi, mai shiranui, malala yousafzai, malcolm x, margaret thatcher,
    marge simpson, margot robbie, mariah     carey, marie curie, marilyn manson, marilyn monroe, mark
    ruffalo, mark twain, mark zuckerberg, marlon brando, martha stewart, martin luther king, mary poppins,
    master chief, matt damon, matthew mcconaughey, max verstappen, medusa, megan fox, megan thee stallion,
    meghan markle, meryl streep, michael jackson, michael jordan, michael myers, michael phelps, michael
    schumacher, michael scott, michelle obama, michelle yeoh, mick jagger, mickey mouse, mikasa ackerman,
    mike tyson, mila kunis, miles davis, miles morales, miley cyrus, millie bobby brown, minions, minnie
    mouse, miss marple, mister rogers, morgan freeman, morticia addams, mother teresa, mrs claus, muhammad
    ali, naomi     campbell, napoleon bonaparte, narendra modi, naruto, naruto uzumaki, natalie portman,
    natasha romanoff, nathan     drake, ned stark, neil degrasse tyson, nelson mandela, neymar jr, nick
    fury, nicki minaj, nicolas cage, nicole     kidman, nikola tesla, nina simone, norman bates, novak
    djokovic, obi-wan kenobi, octavia spencer, olivia rodrigo, oprah winfrey, optimus prime, oscar isaac,
    oscar wilde, owen wilson, pablo picasso, padme amidala, patrick     stewart, paul mccartney, pedro
    pascal, peter griffin, peter pan, peter parker, pierce brosnan, pikachu, pocahontas, pope francis, post
    malone, power rangers, prince harry, prince william, princess     mononoke, princess diana, princess
    leia, princess peach, princess zelda, priyanka chopra, queen elizabeth, queen victoria, rafael nadal,
    rapunzel, ray charles, rei ayanami, rick sanchez, rihanna, ringo starr, rishi sunak, robert     downey,
    robert de niro, robert downey jr, robert pattinson, robin hood, robin williams, rocky balboa, roger
    federer, ron weasley, ronald reagan, roronoa zoro, rosa parks, rubeus hagrid, rupert grint, ruth bader
    ginsburg, ryan     reynolds, ryan gosling, sailor moon, salma hayek, salvador dali, sam altman, samuel
    jackson, samwise gamgee, sandra bullock, santa claus, sarah connor, sarah palin, sasuke uchiha, saul
    goodman, scarlet witch, scarlett johansson, sean     connery, selena gomez, sephiroth, serena williams,
    severus snape, shah rukh khan, shakira, shaquille o'neal, sherlock holmes, sigourney weaver, simone
    biles, smurfs, snoop dogg, solid snake, son goku, spice girls, spider-man, spiderman, spike     spiegel,
    spongebob squarepants, stephen colbert, stephen curry, stephen hawking, stephen king, steve     irwin,
    steve carell, steve jobs, steve martin, steve rogers, stevie wonder, stormtrooper, stormtroopers, super
    mario, superman, sydney sweeney, tanjiro     kamado, taylor swift, teletubbies, thanos, thomas
    jefferson, thomas shelby, tifa lockhart, tilda swinton, timothee     chalamet, timothée chalamet, tina
    turner, tom     holland, tom brady, tom cruise, tom hanks, tom hardy, tom hiddleston, tommy shelby, tony
    soprano, tony stark, tooth fairy, tupac shakur, tyler durden, tyrion lannister, uma     thurman, usain
    bolt, van helsing, venus williams, vincent van gogh, viola davis, virginia woolf, vladimir putin,
    voldemort, volodymyr zelensky, volodymyr zelenskyy, walter white, wanda maximoff, warren buffett,
    wednesday     addams, whitney houston, will ferrell, will smith, william shakespeare, willie nelson,
    willy wonka, winnie the     pooh, winona ryder, winston churchill, wolfgang amadeus mozart, wonder
    woman, xi jinping, yor forger, zayn malik, zendaya, zinedine zidane, zoe saldana"""


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
    for name, found in (("persons", persons), ("things", things), ("names", names | set(re.split(r",\s+", MORE_NAMES)))):
        text = textwrap.fill(("; " if name == "names" else " ").join(sorted(found)), 99, break_on_hyphens=False)
        (PLACE / f"{name}.txt").write_text(text + "\n", "utf-8")
        print(name, len(found))


if __name__ == "__main__":
    main()
