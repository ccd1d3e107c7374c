//! Paragraphs of text, each of one kind, from what is true in an edition.

use super::facts::{Facts, Person, Relation};
use super::lexicon::{ANIMALS, CARGOES, COLOURS, DISHES, NUMBERS, REGIONS, ROOMS, SHIPS, THINGS, TRADES, WEATHERS};
use super::phrases::{self, capitalised, fill, with_article};
use super::scenes::{Answered, Order, Story, Sum, Visit};
use super::{Split, split_of};
use crate::random::Random;

/// A kind of paragraph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// Facts of a person.
    Biography,
    Town,
    /// An animal, or a trade.
    Animal,
    Thing,
    /// People carry a thing about.
    Story,
    /// Additions and subtractions.
    Sums,
    /// Someone judges an inn.
    Visit,
    Order,
    /// A few words, sung over and over.
    Song,
    /// One asks, another answers.
    Dialogue,
    /// A ship's log.
    Voyage,
    /// Facts of several people, in hearsay.
    Letter,
    /// Facts of several people, in columns.
    Register,
    Question,
    Instruction,
}

/// Draws paragraphs of an edition.
pub struct Writer<'a> {
    pub seed: u64,
    pub facts: &'a Facts,
    pub random: Random,
}

impl Writer<'_> {
    /// A paragraph's sentences.
    pub fn write(&mut self, document: Document) -> Vec<String> {
        match document {
            Document::Biography => self.biography(),
            Document::Town => self.town(),
            Document::Animal => self.animal(),
            Document::Thing => self.thing(),
            Document::Story => self.story(),
            Document::Sums => self.sums(),
            Document::Visit => self.visit(),
            Document::Order => {
                (0..3).map(|_| Order::new(self.facts, &mut self.random).sentence(&mut self.random)).collect()
            }
            Document::Song => vec![self.song()],
            Document::Dialogue => vec![self.dialogue()],
            Document::Voyage => self.voyage(),
            Document::Letter => self.letter(),
            Document::Register => vec![self.register()],
            Document::Question => self.question(),
            Document::Instruction => vec![self.instruction()],
        }
    }

    /// Relations of a person that may be told, in any order.
    fn relations(&mut self, person: &Person) -> Vec<Relation> {
        let mut relations = Relation::ALL.to_vec();
        relations.retain(|&relation| !self.facts.is_untold(person, relation));
        self.random.shuffle(&mut relations);
        relations
    }

    fn biography(&mut self) -> Vec<String> {
        let person = self.facts.someone(&mut self.random);
        let count = 3 + self.random.below(4);
        self.about(person, count)
    }

    fn about(&mut self, person: &Person, count: usize) -> Vec<String> {
        let relations = self.relations(person);
        let mut sentences = Vec::new();
        for relation in relations.into_iter().take(count) {
            let by_name = sentences.is_empty() || self.random.percent(40);
            sentences.push(self.statement(person, relation, by_name));
        }
        sentences
    }

    fn statement(&mut self, person: &Person, relation: Relation, by_name: bool) -> String {
        let phrase = self.random.word(phrases::statements(relation));
        fact(phrase, person, self.facts.value(person, relation), by_name)
    }

    fn town(&mut self) -> Vec<String> {
        let town = self.random.pick(self.facts.towns());
        let words = [("t", town.name), ("r", town.region), ("v", town.product)];
        let mut sentences: Vec<String> =
            [phrases::TOWN_LIES, phrases::TOWN_MAKES].map(|kind| fill(self.random.word(kind), &words)).into();
        let mut natives: Vec<&Person> =
            self.facts.people().iter().filter(|person| self.facts.value(person, Relation::Home) == town.name).collect();
        self.random.shuffle(&mut natives);
        sentences.extend(natives.into_iter().take(2).map(|person| self.statement(person, Relation::Home, true)));
        sentences
    }

    fn animal(&mut self) -> Vec<String> {
        let count = 2 + self.random.below(3);
        if self.random.percent(40) {
            let trade = self.random.pick(&TRADES);
            let at = with_article(trade.name);
            let words =
                [("t", trade.name), ("at", &at), ("w", trade.workplace), ("i", trade.tool), ("v", trade.product)];
            return self.some(phrases::TRADE_RULES, count, &words);
        }
        let animal = self.random.pick(&ANIMALS);
        let (aa, ak) = (with_article(animal.name), with_article(animal.kind));
        let words = [
            ("a", animal.name),
            ("aa", &aa),
            ("k", animal.kind),
            ("ak", &ak),
            ("n", NUMBERS[animal.legs]),
            ("s", animal.sound),
            ("f", animal.food),
        ];
        self.some(phrases::ANIMAL_FACTS, count, &words)
    }

    fn thing(&mut self) -> Vec<String> {
        let (thing, count) = (self.random.pick(&THINGS), 2 + self.random.below(2));
        let (ax, ac) = (with_article(thing.name), with_article(thing.category));
        let words = [
            ("x", thing.name),
            ("ax", &ax),
            ("xs", thing.plural),
            ("ac", &ac),
            ("m", thing.material),
            ("c", self.random.word(&COLOURS)),
        ];
        self.some(phrases::THING_FACTS, count, &words)
    }

    /// Some of the phrases, each once.
    fn some(&mut self, phrases: &[&str], count: usize, words: &[(&str, &str)]) -> Vec<String> {
        let mut phrases = phrases.to_vec();
        self.random.shuffle(&mut phrases);
        phrases.iter().take(count).map(|phrase| fill(phrase, words)).collect()
    }

    fn story(&mut self) -> Vec<String> {
        let events = 1 + self.random.below(4);
        let mut story = Story::new(self.facts, events, &mut self.random);
        let ending = story.question(&mut self.random).sentence;
        story.sentences.push(ending);
        story.sentences
    }

    fn song(&mut self) -> String {
        let singer = self.facts.someone(&mut self.random).name;
        let count = 3 + self.random.below(4);
        let mut line = || {
            let places = [self.random.word(&ROOMS), self.random.pick(self.facts.towns()).name];
            let person = self.random.pick(self.facts.people()).name;
            let things = [self.random.word(&COLOURS), self.random.pick(&THINGS).name, self.random.pick(&ANIMALS).name];
            let other = [self.random.word(&NUMBERS), person, self.random.word(&DISHES)];
            self.random.word(&[&places[..], &things[..], &other[..]].concat())
        };
        let refrain = (0..count).map(|_| line()).collect::<Vec<_>>().join(" ");
        fill(phrases::SONG, &[("p", singer), ("refrain", &[refrain.as_str(); 3].join(", "))])
    }

    /// A sum that may be told.
    fn sum(&mut self) -> Sum {
        loop {
            let sum = Sum::draw(&mut self.random);
            if !sum.is_untold(self.seed) {
                return sum;
            }
        }
    }

    fn sums(&mut self) -> Vec<String> {
        if self.random.percent(50) {
            let (mut sentences, answered) = self.sum().told(self.facts, &mut self.random);
            sentences.push(answered.sentence);
            return sentences;
        }
        (0..3).map(|_| self.sum().bare(&mut self.random).sentence).collect()
    }

    fn visit(&mut self) -> Vec<String> {
        loop {
            let mut visit = Visit::new(self.seed, self.facts, &mut self.random);
            if !visit.is_untold {
                let reaction = visit.reaction(&mut self.random);
                visit.sentences.push(reaction);
                return visit.sentences;
            }
        }
    }

    /// A question about a person that a text may ask, and its answer.
    fn asked(&mut self) -> Answered {
        loop {
            let person = self.facts.someone(&mut self.random);
            let relation = *self.random.pick(&Relation::ALL);
            let is_ours = split_of(self.seed, &key(person, relation)) == Split::Training;
            if is_ours && !self.facts.is_untold(person, relation) {
                return ask(self.facts, person, relation, &mut self.random);
            }
        }
    }

    fn dialogue(&mut self) -> String {
        let (q, r) = self.facts.two(&mut self.random);
        let (q, r) = (q.name, r.name);
        let answered = if self.random.percent(50) { self.asked() } else { self.sum().bare(&mut self.random) };
        let words = [("question", answered.question.as_str()), ("answer", &answered.sentence), ("q", q), ("r", r)];
        fill(self.random.word(phrases::DIALOGUES), &words)
    }

    fn question(&mut self) -> Vec<String> {
        let (mut sentences, answered) = match self.random.below(4) {
            0 => {
                let story = Story::new(self.facts, 2, &mut self.random);
                let answered = story.question(&mut self.random);
                (story.sentences, answered)
            }
            1 => (Vec::new(), self.sum().bare(&mut self.random)),
            _ => (Vec::new(), self.asked()),
        };
        let word = capitalised(&answered.word) + ".";
        let answer = if self.random.percent(50) { &answered.sentence } else { &word };
        sentences.push(fill(phrases::QUESTION_ANSWER, &[("question", &answered.question), ("answer", answer)]));
        sentences
    }

    fn instruction(&mut self) -> String {
        let [tell, add, name, example, whether, order, yes, no] = *phrases::INSTRUCTIONS else { return String::new() };
        let person = self.facts.someone(&mut self.random);
        let (instruction, response) = match self.random.below(6) {
            0 => (fill(tell, &[("p", person.name)]), self.about(person, 3).join(" ")),
            1 => {
                let sum = self.sum();
                let words = [("a", NUMBERS[sum.a]), ("b", NUMBERS[sum.b])];
                (fill(add, &words), capitalised(NUMBERS[sum.a + sum.b]) + ".")
            }
            2 => {
                let relation = Relation::ALL[self.random.below(7)];
                let words = [("what", phrases::called(relation)), ("p", person.name)];
                (fill(name, &words), capitalised(self.facts.value(person, relation)) + ".")
            }
            3 => {
                let animal = self.random.pick(&ANIMALS);
                (fill(example, &[("ak", &with_article(animal.kind))]), capitalised(animal.name) + ".")
            }
            4 => {
                let (thing, other) = (self.random.pick(&THINGS), self.random.pick(&THINGS));
                let category = if self.random.percent(50) { thing.category } else { other.category };
                let words = [("ax", &*with_article(thing.name)), ("ac", &with_article(category))];
                (fill(whether, &words), capitalised(if category == thing.category { yes } else { no }))
            }
            _ => (capitalised(order), Order::new(self.facts, &mut self.random).sentence(&mut self.random)),
        };
        fill(phrases::INSTRUCTION_RESPONSE, &[("instruction", &instruction), ("response", &response)])
    }

    fn voyage(&mut self) -> Vec<String> {
        let person = self.facts.someone(&mut self.random);
        let town = self.random.pick(self.facts.towns()).name;
        let words = [
            ("s", self.random.word(&SHIPS)),
            ("n", NUMBERS[2 + self.random.below(19)]),
            ("p", person.name),
            ("t", town),
            ("c", self.random.word(&CARGOES)),
            ("w", self.random.word(&WEATHERS)),
            ("r", self.random.word(&REGIONS)),
        ];
        let parts = [phrases::VOYAGE_LEAVES, phrases::VOYAGE_CARGO, phrases::VOYAGE_WEATHER, phrases::VOYAGE_EVENTS];
        let mut sentences: Vec<String> = parts.map(|part| fill(self.random.word(part), &words)).into();
        if self.random.percent(60) {
            sentences.push(fill(self.random.word(phrases::VOYAGE_ENDS), &words));
        }
        sentences
    }

    fn letter(&mut self) -> Vec<String> {
        let (p, q) = self.facts.two(&mut self.random);
        let words = [("p", p.name), ("q", q.name), ("t", self.random.pick(self.facts.towns()).name)];
        let mut sentences = vec![fill(self.random.word(phrases::LETTER_BEGINS), &words)];
        for _ in 0..2 + self.random.below(3) {
            let person = self.facts.someone(&mut self.random);
            let told = self.about(person, 1).concat();
            // A name keeps its capital within a sentence, another word does not.
            let told = if told.starts_with(person.name) { told } else { lower(&told) };
            sentences.push(fill(self.random.word(phrases::LETTER_TELLS), &[("told", &told)]));
        }
        sentences.push(fill(self.random.word(phrases::LETTER_ENDS), &words));
        sentences
    }

    fn register(&mut self) -> String {
        let town = self.random.pick(self.facts.towns()).name;
        let rows = (0..3).map(|_| {
            let person = self.facts.someone(&mut self.random);
            let value = |relation| self.facts.value(person, relation);
            let (v, a, d) = (value(Relation::Trade), value(Relation::Pet), value(Relation::Dish));
            lower(&fill(phrases::REGISTER_ROW, &[("p", person.name), ("v", v), ("a", a), ("d", d)]))
        });
        let rows = rows.collect::<Vec<_>>().join(" ");
        fill(phrases::REGISTER, &[("t", town), ("rows", rows.trim_end_matches(';'))]) + "."
    }
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A phrase about a person, with the name or with pronouns.
fn fact(phrase: &str, person: &Person, value: &str, by_name: bool) -> String {
    let [subject, object, possessive] = phrases::PRONOUNS[usize::from(!person.is_woman)];
    let owned = format!("{}'s", person.name);
    let [p, o, ps] = if by_name { [person.name, person.name, &owned] } else { [subject, object, possessive] };
    fill(phrase, &[("p", p), ("o", o), ("ps", ps), ("v", value), ("av", &with_article(value))])
}

/// What a fact of a person is called when it is decided which split may ask for it.
pub fn key(person: &Person, relation: Relation) -> String {
    format!("{relation:?} {}", person.name)
}

/// The question for a fact of a person.
pub fn ask(facts: &Facts, person: &Person, relation: Relation, random: &mut Random) -> Answered {
    let value = facts.value(person, relation);
    Answered {
        question: fact(random.word(phrases::questions(relation)), person, value, true),
        word: value.into(),
        sentence: fact(random.word(phrases::statements(relation)), person, value, true),
    }
}
