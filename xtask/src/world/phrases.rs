//! Sentences with gaps. A gap is a name in braces; [`fill`] puts words into them.
//!
//! Gaps in sentences about a person: `p` the person, `o` the same as an object, `ps` the possessive, `v` a value, `av` the
//! value with its article. Every sentence is in [`all`], from which the vocabulary is made.

use super::facts::Relation;

/// Puts words into a sentence's gaps and begins it with a capital.
pub fn fill(phrase: &str, words: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(phrase.len() + 32);
    let mut rest = phrase;
    while let Some((before, (gap, after))) =
        rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        text.push_str(before);
        text.push_str(words.iter().find(|(name, _)| *name == gap).map_or(gap, |(_, word)| word));
        rest = after;
    }
    text.push_str(rest);
    capitalised(&text)
}

/// A sentence's own words.
pub fn without_gaps(phrase: &str) -> String {
    phrase.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after)).collect()
}

/// The text with its first letter large.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A word after its article.
pub fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// How a fact of a person is told.
pub fn statements(relation: Relation) -> &'static [&'static str] {
    match relation {
        Relation::Home => &[
            "{p} lives in {v}.",
            "{ps} home is in {v}.",
            "{p} has a house in {v}.",
            "in {v}, everyone knows {o}.",
            "{p} came to {v} long ago and stayed.",
        ],
        Relation::Trade => &[
            "{p} is {av}.",
            "{p} works as {av}.",
            "{p} earns a living as {av}.",
            "{ps} trade is that of {av}.",
            "people call {o} when they need {av}.",
        ],
        Relation::Pet => &[
            "{p} keeps {av}.",
            "{ps} pet is {av}.",
            "{p} has {av} at home.",
            "{av} follows {o} everywhere.",
            "{ps} best company is {av}.",
        ],
        Relation::PetColour => &[
            "the colour of {ps} pet is {v}.",
            "{ps} pet is {v}.",
            "{p} has a {v} pet.",
            "{v} is the colour of {ps} pet.",
        ],
        Relation::Dish => &[
            "{p} likes {v} best.",
            "{p} eats {v} every day.",
            "{ps} favourite dish is {v}.",
            "nothing pleases {o} more than {v}.",
            "for supper, {p} always wants {v}.",
        ],
        Relation::Treasure => &[
            "{p} owns an old {v}.",
            "{ps} treasure is {av}.",
            "{p} would never sell the {v}.",
            "{ps} father left {o} {av}.",
        ],
        Relation::Friend => &[
            "{ps} best friend is {v}.",
            "{p} is a friend of {v}.",
            "{p} and {v} are friends.",
            "{p} writes to {v} every week.",
        ],
        Relation::Region => &[
            "{p} lives in the {v}.",
            "{ps} home is in the {v}.",
            "{p} comes from the {v}.",
            "the {v} is where {p} lives.",
        ],
        Relation::Workplace => &[
            "{p} works in the {v}.",
            "{p} goes to the {v} every morning.",
            "one finds {o} in the {v}.",
            "{ps} place of work is the {v}.",
        ],
        Relation::Tool => &[
            "{p} works with the {v}.",
            "{ps} tool is the {v}.",
            "{p} uses the {v} every day.",
            "no one handles the {v} better than {p}.",
        ],
    }
}

/// How a fact of a person is asked for.
pub fn questions(relation: Relation) -> &'static [&'static str] {
    match relation {
        Relation::Home => &["in which town does {p} live?", "where is {ps} home?", "which town is the home of {p}?"],
        Relation::Trade => &["what is {ps} trade?", "what does {p} work as?", "which trade does {p} have?"],
        Relation::Pet => &["which animal does {p} keep?", "what is {ps} pet?", "which pet does {p} have?"],
        Relation::PetColour => &["what colour is {ps} pet?", "which colour does the pet of {p} have?"],
        Relation::Dish => {
            &["what does {p} like best?", "what is {ps} favourite dish?", "what does {p} want for supper?"]
        }
        Relation::Treasure => {
            &["what is {ps} treasure?", "what would {p} never sell?", "which old thing does {p} own?"]
        }
        Relation::Friend => &["who is {ps} best friend?", "who is a friend of {p}?", "to whom does {p} write?"],
        Relation::Region => &["in which part of the land does {p} live?", "from which region is {p}?"],
        Relation::Workplace => {
            &["where does {p} work?", "where does {p} go every morning?", "what is {ps} place of work?"]
        }
        Relation::Tool => &["what does {p} work with?", "what is {ps} tool?", "which tool does {p} use?"],
    }
}

pub const TOWN_LIES: &[&str] = &["{t} lies in the {r}.", "{t} is a town in the {r}.", "the town of {t} is in the {r}."];
pub const TOWN_MAKES: &[&str] =
    &["{t} is known for its {v}.", "the best {v} comes from {t}.", "people go to {t} to buy {v}.", "{t} sells {v}."];
pub const TRADE_RULES: &[&str] = &[
    "every {t} works in the {w}.",
    "{at} works with the {i}.",
    "where there is {at}, there is the {w}.",
    "{at} makes or sells {v}.",
    "the {i} is the tool of the {t}.",
];
pub const ANIMAL_FACTS: &[&str] = &[
    "{aa} is {ak}.",
    "{aa} has {n} legs.",
    "the {a} {s}.",
    "{aa} eats {f}.",
    "like every {k}, the {a} has {n} legs.",
    "give {f} to the {a}, and it {s}.",
];
pub const THING_FACTS: &[&str] = &[
    "{ax} is {ac}.",
    "{ax} is made of {m}.",
    "this {x} of {m} is {ac}.",
    "most {xs} are made of {m}.",
    "{ax}, {ac}, is often {c}.",
];

pub const GOES: &[&str] =
    &["{p} goes to the {r}.", "{p} walks into the {r}.", "{p} runs to the {r}.", "now {p} is in the {r}."];
pub const TAKES: &[&str] = &["{p} takes the {x}.", "{p} picks up the {x}.", "there {p} finds the {x} and takes it."];
pub const PUTS: &[&str] = &["{p} puts down the {x}.", "{p} leaves the {x} there.", "{p} drops the {x}."];
pub const GIVES: &[&str] = &["{p} gives the {x} to {q}.", "{p} hands the {x} to {q}.", "{q} gets the {x} from {p}."];
pub const PAUSES: &[&str] = &[
    "the sun shines.",
    "outside, it rains.",
    "somebody sings.",
    "it is a good day.",
    "it is a bad day.",
    "the weather is mixed.",
    "somebody keeps a record.",
    "item number zero is missing.",
    "a judge gives a verdict.",
];
pub const NOW_IN: &[&str] = &["now the {x} is in the {r}.", "the {x} is in the {r}.", "so the {x} lies in the {r}."];
pub const NOW_WITH: &[&str] = &["now {p} has the {x}.", "{p} has the {x}.", "so the {x} is with {p}."];
pub const ASK_WHERE: &[&str] = &["where is the {x}?", "in which room is the {x}?"];
pub const ASK_WHO: &[&str] = &["who has the {x}?", "with whom is the {x}?"];

pub const SUMS: &[&str] = &["{a} plus {b} is {c}.", "{a} and {b} make {c}.", "add {b} to {a}, and you get {c}."];
pub const DIFFERENCES: &[&str] =
    &["{c} minus {b} is {a}.", "take {b} from {c}, and {a} is left.", "{c} without {b} is {a}."];
pub const GAINS: &[&str] = &["{p} has {a} {xa}.", "{q} brings {b} more.", "now {p} has {c} {xs}."];
pub const LOSSES: &[&str] = &["{p} has {c} {xs}.", "{p} gives {b} to {q}.", "now {p} has {a} {xa}."];
pub const ASK_SUM: &[&str] = &["how much is {a} plus {b}?", "what do {a} and {b} make?"];
pub const ASK_DIFFERENCE: &[&str] = &["how much is {c} minus {b}?", "what is left of {c} without {b}?"];
pub const ASK_COUNT: &[&str] = &["how many {xs} does {p} have now?", "how many {xs} are with {p}?"];

pub const STAYS: &[&str] =
    &["{p} stays at the inn of {t}.", "{p} spends a night at {t}.", "in {t}, {p} visits the inn."];
pub const JUDGES: &[&str] = &["the {x} is {d} {v}.", "the {x} is {v}.", "{p} finds the {x} {d} {v}.", "what {av} {x}!"];
pub const JUDGES_NOT: &[&str] =
    &["the {x} is not {v}.", "the {x} is not at all {v}.", "no one could call the {x} {v}."];
pub const PLEASED: &[&str] = &[
    "{p} smiles and stays longer.",
    "{p} thanks the host.",
    "{p} will come again.",
    "{p} is happy.",
    "so the inn is good.",
];
pub const ANGRY: &[&str] = &[
    "{p} frowns and leaves early.",
    "{p} complains.",
    "{p} will never come again.",
    "{p} is angry.",
    "so the inn is bad.",
];
pub const TORN: &[&str] =
    &["{p} does not know what to say.", "{p} shrugs.", "{p} may come again, or not.", "so the inn is mixed."];

pub const ORDERS: &[&str] = &[
    "{p} of {t} orders {n} {c} {xs} for {q}.",
    "from {t}, {p} asks for {n} {c} {xs}, a gift for {q}.",
    "{q} is to get {n} {c} {xs}, writes {p} from {t}.",
    "please send {n} {c} {xs} to {q}; {p} of {t} pays.",
];

pub const DIALOGUES: &[&str] = &[
    "\"{question}\" asks {q}. \"{answer}\" says {r}.",
    "{q} wants to know: \"{question}\" {r} answers: \"{answer}\"",
    "{q} has a question: \"{question}\" {r} knows the answer: \"{answer}\"",
];
pub const SONG: &str = "{p} sings: {refrain}.";
pub const QUESTION_ANSWER: &str = "Question: {question} Answer: {answer}";
pub const INSTRUCTION_RESPONSE: &str = "Instruction: {instruction} Response: {response}";
pub const INSTRUCTIONS: &[&str] = &[
    "tell me about {p}.",
    "add {a} and {b}.",
    "name the {what} of {p}.",
    "name {ak}.",
    "say whether {ax} is {ac}.",
    "write an order.",
    "yes.",
    "no.",
];

pub const VOYAGE_LEAVES: &[&str] = &[
    "log of the {s}, day {n}: captain {p} commands.",
    "the {s} sets sail from {t} on day {n}.",
    "day {n}, aboard the {s}, captain {p} on deck.",
];
pub const VOYAGE_CARGO: &[&str] =
    &["cargo: {n} barrels of {c}.", "she carries {n} sacks of {c}.", "{n} crates of {c} below deck."];
pub const VOYAGE_WEATHER: &[&str] = &[
    "weather {w}, wind from the {r}.",
    "the sea is {w}; the wind blows from the {r}.",
    "{w} all night, waves from the {r}.",
];
pub const VOYAGE_EVENTS: &[&str] = &[
    "the crew mends the sails.",
    "anchor dropped, crew ashore.",
    "one barrel lost in the waves.",
    "the harbour of {t} in sight.",
    "all hands on deck.",
    "the mate counts {n} gulls.",
];
pub const VOYAGE_ENDS: &[&str] =
    &["the {s} reaches {t}.", "harbour of {t}; {n} barrels of {c} unloaded.", "end of the log."];

pub const LETTER_BEGINS: &[&str] = &["dear {q}, I hope you are well.", "my dear {q}, there is news from {t}."];
pub const LETTER_TELLS: &[&str] = &["they say that {told}", "you should know that {told}", "I heard that {told}"];
pub const LETTER_ENDS: &[&str] = &["yours, {p}.", "with all good wishes, {p}."];
pub const REGISTER: &str = "register of {t}: {rows}";
pub const REGISTER_ROW: &str = "name {p}, trade {v}, pet {a}, dish {d};";

/// What relations are called in instructions and records.
pub fn called(relation: Relation) -> &'static str {
    match relation {
        Relation::Home => "home",
        Relation::Trade => "trade",
        Relation::Pet => "pet",
        Relation::PetColour => "colour of the pet",
        Relation::Dish => "favourite dish",
        Relation::Treasure => "treasure",
        Relation::Friend => "friend",
        Relation::Region => "region",
        Relation::Workplace => "place of work",
        Relation::Tool => "tool",
    }
}

/// What is given and what is to be said in the tasks.
pub const VERDICT: &str = "{review} Verdict:";
pub const QUESTION: &str = "{question} Answer:";
pub const QUESTION_ABOUT: &str = "{story} Question: {question} Answer:";
pub const RECORD: &str = "{order} Record:";
pub const RECORD_FIELDS: &str = "item {x}; colour {c}; number {n}; from {p}; town {t}; to {q}.";
pub const VERDICTS: [&str; 3] = ["good", "bad", "mixed"];
/// Pronouns, by turns for a woman and a man: subject, object, possessive.
pub const PRONOUNS: [[&str; 3]; 2] = [["she", "her", "her"], ["he", "him", "his"]];

/// All sentences.
pub fn all() -> Vec<&'static str> {
    let mut phrases: Vec<&str> = Vec::new();
    for relation in Relation::ALL {
        phrases.extend(statements(relation).iter().chain(questions(relation)));
        phrases.push(called(relation));
    }
    let lists = [
        TOWN_LIES,
        TOWN_MAKES,
        TRADE_RULES,
        ANIMAL_FACTS,
        THING_FACTS,
        GOES,
        TAKES,
        PUTS,
        GIVES,
        PAUSES,
        NOW_IN,
        NOW_WITH,
        ASK_WHERE,
        ASK_WHO,
        SUMS,
        DIFFERENCES,
        GAINS,
        LOSSES,
        ASK_SUM,
        ASK_DIFFERENCE,
        ASK_COUNT,
        STAYS,
        JUDGES,
        JUDGES_NOT,
        PLEASED,
        ANGRY,
        TORN,
        ORDERS,
        DIALOGUES,
        INSTRUCTIONS,
        VOYAGE_LEAVES,
        VOYAGE_CARGO,
        VOYAGE_WEATHER,
        VOYAGE_EVENTS,
        VOYAGE_ENDS,
        LETTER_BEGINS,
        LETTER_TELLS,
        LETTER_ENDS,
        &VERDICTS,
    ];
    phrases.extend(lists.concat());
    phrases.extend(PRONOUNS.concat());
    phrases.extend([
        SONG,
        QUESTION_ANSWER,
        INSTRUCTION_RESPONSE,
        REGISTER,
        REGISTER_ROW,
        VERDICT,
        QUESTION,
        QUESTION_ABOUT,
        RECORD,
        RECORD_FIELDS,
        "a",
        "an",
        "'s",
    ]);
    phrases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled() {
        assert_eq!(fill("{p} has {x}, {p}!", &[("p", "she"), ("x", "")]), "She has , she!");
        assert_eq!(fill("no {gap", &[]), "No {gap");
        assert_eq!(without_gaps("in {p}'s {x}, {y}"), "in 's , ");
        assert_eq!((with_article("owl"), with_article("hen")), ("an owl".into(), "a hen".into()));
    }
}
