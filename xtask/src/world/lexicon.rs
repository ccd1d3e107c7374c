//! The things of the world and their words.

/// What people live by. Who has a trade works in its workplace with its tool: a rule that holds for everyone.
pub struct Trade {
    pub name: &'static str,
    pub workplace: &'static str,
    pub tool: &'static str,
    pub product: &'static str,
}

pub struct Animal {
    pub name: &'static str,
    pub kind: &'static str,
    pub sound: &'static str,
    pub food: &'static str,
    pub legs: usize,
}

pub struct Thing {
    pub name: &'static str,
    pub plural: &'static str,
    pub category: &'static str,
    pub material: &'static str,
}

pub const WOMEN: [&str; 32] = [
    "Mira", "Anna", "Lena", "Sofia", "Clara", "Nora", "Ida", "Ruth", "Alma", "Vera", "Greta", "Hilda", "Edith",
    "Mabel", "Olga", "Paula", "Rosa", "Tilda", "Wanda", "Zelda", "Dora", "Ella", "Freya", "Iris", "Jana", "Kira",
    "Lydia", "Maud", "Nina", "Petra", "Sally", "Thea",
];

pub const MEN: [&str; 32] = [
    "Tom", "Karl", "Otto", "Hugo", "Max", "Emil", "Felix", "Oscar", "Bruno", "Anton", "Peter", "Simon", "Jonas",
    "Lukas", "Ralph", "Viktor", "Walter", "Arno", "Boris", "Conrad", "Dirk", "Erik", "Frank", "Gustav", "Henry",
    "Ivan", "Jacob", "Kurt", "Leo", "Martin", "Nils", "Paul",
];

pub const TOWNS: [&str; 20] = [
    "Oakford",
    "Millbrook",
    "Stonebridge",
    "Ashwick",
    "Redcliff",
    "Fairhaven",
    "Greywater",
    "Thornbury",
    "Elmstead",
    "Wolfden",
    "Saltmarsh",
    "Kingsley",
    "Brackenhill",
    "Dunmore",
    "Larkfield",
    "Westerly",
    "Coldspring",
    "Highmoor",
    "Riverton",
    "Pinecrest",
];

pub const REGIONS: [&str; 4] = ["north", "south", "east", "west"];

const fn trade(name: &'static str, workplace: &'static str, tool: &'static str, product: &'static str) -> Trade {
    Trade { name, workplace, tool, product }
}

pub const TRADES: [Trade; 16] = [
    trade("smith", "forge", "hammer", "nails"),
    trade("baker", "bakery", "oven", "loaves"),
    trade("miller", "mill", "millstone", "flour"),
    trade("weaver", "loft", "loom", "cloth"),
    trade("potter", "pottery", "wheel", "tiles"),
    trade("tailor", "shop", "needle", "shirts"),
    trade("carpenter", "yard", "saw", "doors"),
    trade("doctor", "clinic", "lancet", "pills"),
    trade("teacher", "school", "chalk", "lessons"),
    trade("farmer", "field", "plough", "wheat"),
    trade("brewer", "brewery", "vat", "beer"),
    trade("gardener", "garden", "spade", "flowers"),
    trade("shepherd", "meadow", "crook", "wool"),
    trade("painter", "studio", "brush", "pictures"),
    trade("mason", "quarry", "chisel", "blocks"),
    trade("beekeeper", "orchard", "smoker", "wax"),
];

const fn animal(
    name: &'static str,
    kind: &'static str,
    sound: &'static str,
    food: &'static str,
    legs: usize,
) -> Animal {
    Animal { name, kind, sound, food, legs }
}

pub const ANIMALS: [Animal; 16] = [
    animal("hen", "bird", "clucks", "seeds", 2),
    animal("duck", "bird", "quacks", "weeds", 2),
    animal("goose", "bird", "honks", "grass", 2),
    animal("crow", "bird", "caws", "worms", 2),
    animal("owl", "bird", "hoots", "mice", 2),
    animal("dove", "bird", "coos", "seeds", 2),
    animal("dog", "beast", "barks", "bones", 4),
    animal("cat", "beast", "purrs", "mice", 4),
    animal("cow", "beast", "moos", "grass", 4),
    animal("goat", "beast", "bleats", "leaves", 4),
    animal("horse", "beast", "neighs", "hay", 4),
    animal("pig", "beast", "grunts", "roots", 4),
    animal("wolf", "beast", "howls", "hares", 4),
    animal("bee", "insect", "hums", "nectar", 6),
    animal("cricket", "insect", "chirps", "leaves", 6),
    animal("beetle", "insect", "clicks", "roots", 6),
];

const fn thing(name: &'static str, plural: &'static str, category: &'static str, material: &'static str) -> Thing {
    Thing { name, plural, category, material }
}

pub const THINGS: [Thing; 24] = [
    thing("jar", "jars", "vessel", "clay"),
    thing("cup", "cups", "vessel", "clay"),
    thing("kettle", "kettles", "vessel", "copper"),
    thing("bucket", "buckets", "vessel", "wood"),
    thing("coat", "coats", "garment", "wool"),
    thing("hat", "hats", "garment", "felt"),
    thing("scarf", "scarves", "garment", "silk"),
    thing("glove", "gloves", "garment", "leather"),
    thing("flute", "flutes", "instrument", "wood"),
    thing("drum", "drums", "instrument", "leather"),
    thing("bell", "bells", "instrument", "bronze"),
    thing("fiddle", "fiddles", "instrument", "wood"),
    thing("spoon", "spoons", "tool", "tin"),
    thing("knife", "knives", "tool", "iron"),
    thing("key", "keys", "tool", "iron"),
    thing("rope", "ropes", "tool", "hemp"),
    thing("chair", "chairs", "piece of furniture", "wood"),
    thing("lamp", "lamps", "piece of furniture", "bronze"),
    thing("mirror", "mirrors", "piece of furniture", "glass"),
    thing("chest", "chests", "piece of furniture", "iron"),
    thing("doll", "dolls", "toy", "cloth"),
    thing("ball", "balls", "toy", "leather"),
    thing("kite", "kites", "toy", "paper"),
    thing("marble", "marbles", "toy", "glass"),
];

pub const COLOURS: [&str; 10] =
    ["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "purple", "orange"];

pub const DISHES: [&str; 12] =
    ["bread", "cheese", "soup", "honey", "cake", "stew", "porridge", "fish", "plums", "beans", "nuts", "pears"];

/// Where stories take place; no workplace is among them.
pub const ROOMS: [&str; 10] =
    ["kitchen", "attic", "cellar", "hall", "barn", "bedroom", "library", "stable", "porch", "pantry"];

/// What a visitor judges an inn by.
pub const ASPECTS: [&str; 10] = ["bed", "music", "host", "room", "supper", "view", "service", "wine", "bath", "fire"];

pub const GOOD: [&str; 20] = [
    "lovely",
    "fine",
    "splendid",
    "pleasant",
    "charming",
    "delightful",
    "warm",
    "fresh",
    "tasty",
    "friendly",
    "clean",
    "bright",
    "comfortable",
    "generous",
    "polite",
    "cheerful",
    "excellent",
    "wonderful",
    "perfect",
    "neat",
];

pub const BAD: [&str; 20] = [
    "awful", "dreadful", "dull", "dirty", "rude", "stale", "bitter", "cold", "noisy", "broken", "gloomy", "shabby",
    "nasty", "sour", "dusty", "greedy", "horrid", "dismal", "rotten", "terrible",
];

pub const DEGREES: [&str; 6] = ["very", "quite", "really", "rather", "truly", "so"];

pub const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

pub const SHIPS: [&str; 8] = ["Swan", "Falcon", "Dolphin", "Comet", "Maiden", "Otter", "Star", "Thistle"];

pub const CARGOES: [&str; 10] =
    ["salt", "timber", "coal", "herring", "spices", "rum", "cotton", "pepper", "tar", "oil"];

pub const WEATHERS: [&str; 8] = ["calm", "foggy", "stormy", "clear", "windy", "rainy", "hazy", "icy"];

/// Every word that a sentence's gap can be filled with.
pub fn words() -> Vec<&'static str> {
    let lists: [&[&str]; 14] = [
        &WOMEN, &MEN, &TOWNS, &REGIONS, &COLOURS, &DISHES, &ROOMS, &ASPECTS, &GOOD, &BAD, &DEGREES, &NUMBERS, &SHIPS,
        &CARGOES,
    ];
    let mut words: Vec<&str> = lists.concat();
    words.extend(WEATHERS);
    words.extend(TRADES.iter().flat_map(|trade| [trade.name, trade.workplace, trade.tool, trade.product]));
    words.extend(ANIMALS.iter().flat_map(|animal| [animal.name, animal.kind, animal.sound, animal.food]));
    words.extend(THINGS.iter().flat_map(|thing| [thing.name, thing.plural, thing.category, thing.material]));
    words
}
