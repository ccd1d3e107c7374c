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

pub const WOMEN: [&str; 14] = [
    "Mira", "Anna", "Lena", "Sofia", "Clara", "Nora", "Ida", "Ruth", "Alma", "Vera", "Greta", "Hilda", "Edith", "Mabel",
];

pub const MEN: [&str; 14] = [
    "Tom", "Karl", "Otto", "Hugo", "Max", "Emil", "Felix", "Oscar", "Bruno", "Anton", "Peter", "Simon", "Jonas",
    "Lukas",
];

pub const TOWNS: [&str; 10] = [
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
];

pub const REGIONS: [&str; 4] = ["north", "south", "east", "west"];

const fn trade(name: &'static str, workplace: &'static str, tool: &'static str, product: &'static str) -> Trade {
    Trade { name, workplace, tool, product }
}

pub const TRADES: [Trade; 10] = [
    trade("smith", "forge", "hammer", "nails"),
    trade("baker", "bakery", "oven", "loaves"),
    trade("weaver", "loft", "loom", "cloth"),
    trade("potter", "pottery", "wheel", "tiles"),
    trade("tailor", "shop", "needle", "shirts"),
    trade("doctor", "clinic", "lancet", "pills"),
    trade("teacher", "school", "chalk", "lessons"),
    trade("farmer", "field", "plough", "wheat"),
    trade("gardener", "garden", "spade", "flowers"),
    trade("painter", "studio", "brush", "pictures"),
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

pub const ANIMALS: [Animal; 10] = [
    animal("hen", "bird", "clucks", "seeds", 2),
    animal("duck", "bird", "quacks", "weeds", 2),
    animal("owl", "bird", "hoots", "mice", 2),
    animal("dog", "beast", "barks", "bones", 4),
    animal("cat", "beast", "purrs", "mice", 4),
    animal("cow", "beast", "moos", "grass", 4),
    animal("goat", "beast", "bleats", "leaves", 4),
    animal("horse", "beast", "neighs", "hay", 4),
    animal("bee", "insect", "hums", "nectar", 6),
    animal("cricket", "insect", "chirps", "leaves", 6),
];

const fn thing(name: &'static str, plural: &'static str, category: &'static str, material: &'static str) -> Thing {
    Thing { name, plural, category, material }
}

pub const THINGS: [Thing; 10] = [
    thing("jar", "jars", "vessel", "clay"),
    thing("kettle", "kettles", "vessel", "copper"),
    thing("coat", "coats", "garment", "wool"),
    thing("scarf", "scarves", "garment", "silk"),
    thing("flute", "flutes", "instrument", "wood"),
    thing("bell", "bells", "instrument", "bronze"),
    thing("knife", "knives", "tool", "iron"),
    thing("key", "keys", "tool", "iron"),
    thing("mirror", "mirrors", "piece of furniture", "glass"),
    thing("kite", "kites", "toy", "paper"),
];

pub const COLOURS: [&str; 6] = ["red", "blue", "green", "yellow", "white", "black"];

pub const DISHES: [&str; 8] = ["bread", "cheese", "soup", "honey", "cake", "stew", "porridge", "fish"];

/// Where stories take place; no workplace is among them.
pub const ROOMS: [&str; 6] = ["kitchen", "attic", "cellar", "hall", "barn", "bedroom"];

/// What a visitor judges an inn by.
pub const ASPECTS: [&str; 6] = ["bed", "music", "host", "room", "supper", "view"];

pub const GOOD: [&str; 10] =
    ["lovely", "fine", "splendid", "pleasant", "charming", "delightful", "warm", "fresh", "tasty", "friendly"];

pub const BAD: [&str; 10] =
    ["awful", "dreadful", "dull", "dirty", "rude", "stale", "bitter", "cold", "noisy", "broken"];

pub const DEGREES: [&str; 4] = ["very", "quite", "really", "rather"];

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

pub const SHIPS: [&str; 6] = ["Swan", "Falcon", "Dolphin", "Comet", "Maiden", "Otter"];

pub const CARGOES: [&str; 8] = ["salt", "timber", "coal", "herring", "spices", "rum", "cotton", "pepper"];

pub const WEATHERS: [&str; 6] = ["calm", "foggy", "stormy", "clear", "windy", "rainy"];

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
