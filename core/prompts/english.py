"""The English words that the rules of people.py go by, beside the lists of persons, things and names."""
from __future__ import annotations

from .syntax import MEDIUM

ENDS = set(",;|.:!?\"")
FUNCTION = set("""a an the this that these those some any each every no of in on at with without and or
    to from by for near next beside behind under over above into onto through as like is are was were be
    has have who whom whose which while where when his her their its my your our he she they it him them
    me i you but not than across along around inside outside between during after before against up down
    out off toward towards alone just also very dressed wearing holding among amid amidst beneath below
    within past atop upon underneath alongside about because so if then caught seen lit lost seated
    perched""".split())
CONTAINED = set("a an the his her their its my your our this that these those".split())
IN_NAMES = set("of the and who to".split())
REFUSALS = set("no without zero lacking minus".split())
IN_THEIR_PLACE = set("as like".split())
TRADES = tuple("""surfer boarder player maker driver worker fighter rider keeper runner dancer writer
    painter hunter walker climber swimmer singer teacher tender woman smith watcher spotter chaser goer
    breeder carver builder diver lifter skater skier maiden person ologist""".split())
DEEDS = set("feeding making reading eating drinking climbing tasting grooming".split())  # of persons, not things
ACTIONS = set("""playing jogging running walking dancing reading cooking sitting standing riding swimming
    surfing skiing climbing hiking praying laughing crying kissing hugging drinking eating working
    writing singing fishing cycling knitting shopping meditating cheering skateboarding gardening talking
    posing smiling sleeping skating rowing kayaking camping sewing baking juggling snowboarding
    sunbathing stargazing busking kneeling waiting queueing queuing paragliding skydiving snorkeling
    bouldering roller-skating ice-skating hitchhiking commuting protesting celebrating picnicking napping
    jumping rehearsing bowling graduating studying arguing whispering typing texting leaning crouching
    squatting stretching sprinting sneezing yawning waving clapping whistling hammering welding sweeping
    mopping ironing packing paying browsing driving wrestling golfing diving paddling rafting parachuting
    backpacking relaxing lounging resting sleepwalking tiptoeing daydreaming exercising trekking
    wandering strolling proposing flirting mourning voting marching bathing showering shaving""".split())
# "Singing karaoke", not "singing bowl"
DONE = set("""karaoke laps songs carols coffee tea beer wine dinner breakfast lunch supper pasta pizza
    noodles ramen sushi books newspapers letters tarot horses bikes bicycles motorcycles waves homework
    yoga tango salsa ballet groceries gifts mountains trees stairs poems poetry""".split())
# "Pruning roses", with whatever follows but what they are used for: "pruning shears"
HANDLING = set("""doing browsing holding pruning chopping applying tying pouring stirring kneading
    whisking slicing peeling planting watering digging raking picking wrapping unwrapping carrying
    pushing pulling lifting throwing catching kicking scrubbing brushing combing braiding stitching
    sketching soldering repairing fixing assembling carving sanding polishing petting""".split())
USED = set("""board boards machine machines can cans knife knives paper table stone wheel basket tool
    tools scissors shears brush bowl rain iron kit station""".split())
# "A fashion model"; a "ship model" is a thing.
MODELS = set("""fashion hand foot hair swimsuit bikini lingerie underwear runway catalog catalogue art
    magazine cover jewelry shoe denim sportswear clothing dress studio tattoo makeup skincare perfume
    child""".split())
SPORTS = set("""ski bungee base rock ice roller figure scuba hang kite cliff tightrope ballroom tap
    horseback bull""".split())
DOLLS = frozenset("doll statue mannequin bust puppet figurine scarecrow snowman sculpture toy".split())  # their faces
RELATIVES = set("mother father parent baby child sibling mate".split())  # an animal's: "a calf and its mother"
# "A doctor lies on the floor"
STANCES = set("""lies sits stands walks runs sleeps leans kneels crouches jumps dances sings works plays
    reads rests waits smiles laughs cries poses swims rides drives dives climbs hikes cooks eats drinks
    paints writes talks looks stares gazes points waves reaches falls floats bows""".split())
WRITINGS = set("book books novel article magazine song poem".split())  # "a book about a doctor" shows a book
SAME = {"as", "is", "not", "no"}  # "a man who is a doctor", "a doctor, not a man"
AGENTS = set("inspired owned made built written used worn designed signed belonging dedicated".split())
UNREAL = set("""empty abandoned vacant deserted unoccupied absent toy lego plastic tin cardboard clay
    plush stuffed gingerbread wax origami bobblehead playmobil crocheted knitted felt amigurumi
    papercraft marzipan wooden""".split())
MAKERS = set("""artist maker builder designer sculptor surgeon collector folder restorer seller vendor
    engineer instructor master""".split())  # what they work with is real: "an origami artist"
ANYBODY = set("man woman girl boy person child lady guy".split())  # words that seldom go before a thing's name
ADJECTIVES = set("""red blue green yellow black white golden silver pink purple brown grey gray dark
    bright big small tall long short beautiful handsome pretty old new young soft sharp detailed
    realistic cinematic happy sad alone mid-air backstage onstage midair outdoors indoors full close wide""".split())
TITLES = set("""poster posters logo logos movie film films series show sitcom album novel paperback
    hardcover book vhs dvd blu-ray cassette cover comic comics manga game videogame title musical
    playbill soundtrack emblem sticker franchise trailer magazine brand ad advert advertisement merch""".split())
GROUPS = set("""group groups team crowd pair couple line row band class crew family gang squad trio duo
    bunch audience army choir troupe queue circle gathering""".split())
BODY = set("""hand hands face faces head eye eyes arm arms finger fingers hair smile body back leg legs
    foot feet shoulder shoulders silhouette profile portrait figure expression skin mouth lips palm palms
    fist chest""".split())
# "Watercolor of a doctor" shows one.
LIKENESSES = {*MEDIUM, *(f"{word}s" for word in MEDIUM), *"""view emoji art cartoon anime caricature watercolor
    watercolour mural graffiti stencil mosaic fresco engraving screenshot huddle lineup reunion""".split()}
# And so do these: "poster of a doctor"; but a "doctor poster" does not.
DEPICTIONS = LIKENESSES | set("""etching woodcut collage poster
    sticker sheet print still screenshot polaroid tintype daguerreotype lithograph linocut woodblock pastel
    gouache charcoal doodle scene footage frame clip thumbnail avatar depiction rendition version study scan
    crop storyboard tapestry reflection glimpse panel""".split())
CLOSE = set("hand foot arm leg ear mouth lips palm neck wrist ankle elbow knee".split())  # "close-up of an ear"
LIMBS = set("hand foot arm arms legs".split())  # "a hand holding a phone"
ALONE = set("""portrait self-portrait selfie headshot mugshot hands feet fingers face person people
    someone somebody""".split())
BEFORE_THING = set("waiting dressing changing operating dining living parking meeting boxing swimming sewing".split())
ROOMS = set("""room rooms table tables hall area lot lots space spaces gown theatre theater ring gloves
    pool pools machine machines sign meter garage""".split())  # "a waiting room", but "a crew changing tires"
# Words that are persons elsewhere, and beside these are none.
HOMOGRAPHS = {"driver": r"golf|putter|screw", "putter": "golf", "mother": r"mother.of.pearl|motherboard",
              "collector": "solar|dust", "pedestrian": "pedestrian crossing",
              "cobbler": "peach|apple|cherry|berry|dessert",
              "ruler": r"pencils?|paper|inch|desk", "conductor": "wires?|electric|copper",
              "pilot": "stove|boiler|burner", "bishop": r"chess\w*", "knight": r"chess\w*",
              "king": r"chess\w*|playing cards?|deck", "queen": r"chess\w*|playing cards?|deck|bees?|hive",
              "cleaner": "vacuum|spray|bottle", "camper": "van|trailer|caravan|rv",
              "guy": "guy (?:lines?|ropes?|wires?)",
              "worker": "worker (?:bees?|ants?)|(?:queen|honey) ?bees?|beehive|honeycomb",
              "coach": "bus|train|carriage|horses", "monitor": "computer|screen"}
# "Owl professor" is an owl, and "a cat, sleeping on a sofa" no person; a "dog walker" and a "dog photographer" are.
ANIMALS = frozenset("""aardvark albatross alligator alpaca anaconda ant anteater antelope ape armadillo
    axolotl baboon badger barracuda bat bear beaver bee beetle bird bison boar bobcat buffalo bull
    bulldog bumblebee bunny butterfly buzzard camel canary capybara cardinal caribou cat caterpillar
    catfish centipede chameleon cheetah chick chicken chimpanzee chinchilla chipmunk cobra cockatoo
    collie coral corgi cougar cow coyote crab crane creature cricket crocodile crow cub dachshund
    dalmatian deer dingo dinosaur dog dolphin donkey dove dragon dragonfly duck duckling eagle eel egret
    elephant elk emu falcon fawn ferret finch fish flamingo foal fox frog gazelle gecko gerbil gibbon
    giraffe goat goldfish goose gorilla grasshopper grizzly hamster hare hawk hedgehog heron hippo
    hippopotamus hornet horse hound hummingbird husky hyena ibex iguana insect jackal jaguar jay
    jellyfish kangaroo kestrel kingfisher kitten kitty koala labrador ladybug lamb lemur leopard lion
    lioness lizard llama lobster lynx macaw magpie mammoth manatee mantis marmot mecha meerkat mole
    mongoose monkey monster moose mosquito moth mouse mule narwhal newt octopus okapi orangutan orca
    ostrich otter owl ox panda pangolin panther parrot peacock pelican penguin phoenix pig pigeon piglet
    platypus pony poodle porcupine possum pterodactyl puffin pug puma pup puppy python quokka rabbit
    raccoon ram rat raven reindeer retriever rhino rhinoceros robin robot rooster salamander salmon
    scorpion seagull seahorse seal shark sheep sheepdog shrimp skunk sloth slug snail snake sparrow
    spider squid squirrel stag stallion starfish stork swan tadpole tapir tarantula terrier tiger toad
    tortoise toucan triceratops trout turkey turtle tyrannosaurus unicorn viper vulture wallaby walrus
    warthog wasp weasel whale wildebeest wolf wolverine wombat woodpecker yak zebra""".split())
PLAYED = set("""professor wizard knight detective chef astronaut king queen prince princess doctor pirate
    scientist ninja samurai musician librarian teacher pilot barista baker judge lawyer soldier viking
    witch warrior explorer monk butler waiter bartender family families couple parents mother father mom
    dad duo trio band crew guitarist drummer violinist pianist dj cowboy gentleman businessman superhero
    mechanic nurse sheriff sailor captain gardener boxer""".split())
SURNAMES = set("""potter granger smith baker cook taylor mason carter cooper fisher hunter miller parker
    turner walker weaver wright porter butler archer shepherd page bishop king knight prince pope
    marshall ranger judge gardener tyler fuller sawyer""".split())
NO_ACTION = set("building clothing painting drawing ring wing ceiling wedding string spring thing king".split())
IRREGULAR = {"men": "man", "women": "woman", "children": "child", "people": "person", "wives": "wife",
             "thieves": "thief", "elves": "elf", "dwarves": "dwarf", "folks": "person", "midwives": "midwife",
             "housewives": "housewife", "ladies": "lady"}
# Names of one occupation: a profile of the one is for the others too.
ALIKE = tuple(tuple(line.split(", ")) for line in """doctor, physician
chef, cook
carpenter, woodworker
pilot, aviator
lawyer, attorney
police officer, cop
ceo, chief executive officer, chief executive
programmer, coder, software developer
veterinarian, vet
hairdresser, hairstylist
bartender, barkeeper
janitor, custodian
journalist, reporter
taxi driver, cab driver, cabbie
truck driver, trucker
real estate agent, realtor
paramedic, emt
biker, motorcyclist
cyclist, bicyclist
dj, disc jockey
jeweler, jeweller
traveler, traveller
mortician, undertaker
therapist, psychotherapist
teacher, schoolteacher""".splitlines())
