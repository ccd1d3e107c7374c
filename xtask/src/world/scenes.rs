//! Scenes that both texts and tasks are made from: what happens with a thing, sums, visits to an inn, orders. Each knows its
//! sentences and what can be asked about it.

use super::facts::{Facts, Person};
use super::lexicon::{ASPECTS, BAD, COLOURS, DEGREES, GOOD, NUMBERS, ROOMS, THINGS, Thing};
use super::phrases::{self, fill, with_article};
use crate::random::Random;

/// A thing that people carry about.
pub struct Story {
    pub sentences: Vec<String>,
    /// What it is about, with its colour.
    pub thing: String,
    /// The room it is in, or the name of who has it.
    pub place: Place,
}

/// Where a story's thing ends.
#[derive(Clone, Copy)]
pub enum Place {
    In(&'static str),
    With(&'static str),
}

impl Story {
    /// A story of so many events.
    pub fn new(facts: &Facts, events: usize, random: &mut Random) -> Self {
        let (hero, other) = facts.two(random);
        let [thing, decoy] = [(); 2].map(|()| format!("{} {}", random.word(&COLOURS), random.pick(&THINGS).name));
        let first = random.word(&ROOMS);
        let mut story = Story { sentences: Vec::new(), thing, place: Place::In(first) };
        story.say(phrases::GOES, &[("p", hero.name), ("r", first)], random);
        story.say(phrases::TAKES, &[("p", hero.name), ("x", &story.thing.clone())], random);
        story.place = Place::With(hero.name);
        let (mut holder, mut idle, mut room) = (hero, other, first);
        let mut decoys = usize::from(decoy != story.thing);
        for _ in 0..events {
            let thing = story.thing.clone();
            match (random.below(4), story.place) {
                (0, _) => story.say(phrases::PAUSES, &[], random),
                (1, Place::With(_)) => {
                    story.say(phrases::GIVES, &[("p", holder.name), ("q", idle.name), ("x", &thing)], random);
                    (holder, idle) = (idle, holder);
                    story.place = Place::With(holder.name);
                }
                (2, Place::With(_)) => {
                    story.say(phrases::PUTS, &[("p", holder.name), ("x", &thing)], random);
                    story.place = Place::In(room);
                }
                (_, Place::With(_)) => {
                    room = random.word(&ROOMS);
                    story.say(phrases::GOES, &[("p", holder.name), ("r", room)], random);
                }
                // What lies somewhere stays there, whatever else is carried.
                (_, Place::In(_)) if decoys > 0 => {
                    decoys -= 1;
                    story.say(phrases::GOES, &[("p", idle.name), ("r", random.word(&ROOMS))], random);
                    story.say(phrases::TAKES, &[("p", idle.name), ("x", &decoy)], random);
                }
                (_, Place::In(_)) => story.say(phrases::PAUSES, &[], random),
            }
        }
        story
    }

    fn say(&mut self, phrases: &[&str], words: &[(&str, &str)], random: &mut Random) {
        self.sentences.push(fill(random.word(phrases), words));
    }

    /// The question where the thing is, its answer as a word, and as a sentence.
    pub fn question(&self, random: &mut Random) -> Answered {
        let thing = ("x", self.thing.as_str());
        let (ask, tell, word, gap) = match self.place {
            Place::In(room) => (phrases::ASK_WHERE, phrases::NOW_IN, room, "r"),
            Place::With(name) => (phrases::ASK_WHO, phrases::NOW_WITH, name, "p"),
        };
        Answered {
            question: fill(random.word(ask), &[thing]),
            word: word.into(),
            sentence: fill(random.word(tell), &[thing, (gap, word)]),
        }
    }
}

/// A question and its answer.
pub struct Answered {
    pub question: String,
    /// The answer in one word.
    pub word: String,
    /// The answer as a sentence.
    pub sentence: String,
}

/// Two numbers from one to nine, their sum, and which of it is told.
#[derive(Clone, Copy)]
pub struct Sum {
    pub a: usize,
    pub b: usize,
    is_difference: bool,
}

impl Sum {
    pub fn draw(random: &mut Random) -> Self {
        Sum { a: 1 + random.below(9), b: 1 + random.below(9), is_difference: random.percent(50) }
    }

    /// An addition.
    #[cfg(test)]
    pub fn of(a: usize, b: usize) -> Self {
        Sum { a, b, is_difference: false }
    }

    /// What it is called when it is decided who may see it: the same for all that follows from one addition.
    pub fn key(self) -> String {
        format!("sum {} {}", self.a.min(self.b), self.a.max(self.b))
    }

    /// Whether no text may tell it. One in five.
    pub fn is_untold(self, seed: u64) -> bool {
        Random::new(seed, &format!("untold {}", self.key()), 0).below(5) == 0
    }

    fn words(self) -> [(&'static str, &'static str); 3] {
        [("a", NUMBERS[self.a]), ("b", NUMBERS[self.b]), ("c", NUMBERS[self.a + self.b])]
    }

    /// The sum or difference in bare numbers.
    pub fn bare(self, random: &mut Random) -> Answered {
        let (ask, tell) = match self.is_difference {
            true => (phrases::ASK_DIFFERENCE, phrases::DIFFERENCES),
            false => (phrases::ASK_SUM, phrases::SUMS),
        };
        let words = self.words();
        Answered {
            question: fill(random.word(ask), &words),
            word: self.result().into(),
            sentence: fill(random.word(tell), &words),
        }
    }

    /// The same with things that change hands: sentences without the result, and the question for it.
    pub fn told(self, facts: &Facts, random: &mut Random) -> (Vec<String>, Answered) {
        let (p, q) = facts.two(random);
        let mut words = self.words().to_vec();
        let thing = random.pick(&THINGS);
        let counted = if self.a == 1 { thing.name } else { thing.plural };
        words.extend([("p", p.name), ("q", q.name), ("xs", thing.plural), ("xa", counted)]);
        let sentences = if self.is_difference { phrases::LOSSES } else { phrases::GAINS };
        let mut sentences: Vec<String> = sentences.iter().map(|sentence| fill(sentence, &words)).collect();
        let sentence = sentences.pop().unwrap_or_default();
        (
            sentences,
            Answered { question: fill(random.word(phrases::ASK_COUNT), &words), word: self.result().into(), sentence },
        )
    }

    fn result(self) -> &'static str {
        NUMBERS[if self.is_difference { self.a } else { self.a + self.b }]
    }
}

/// What a visitor thinks of an inn.
pub struct Visit<'a> {
    pub guest: &'a Person,
    pub sentences: Vec<String>,
    /// Which verdict of [`phrases::VERDICTS`] follows.
    pub verdict: usize,
    /// Whether an aspect is joined with an adjective that no text may join it with.
    pub is_untold: bool,
}

impl<'a> Visit<'a> {
    pub fn new(seed: u64, facts: &'a Facts, random: &mut Random) -> Self {
        let guest = facts.someone(random);
        let town = random.pick(facts.towns()).name;
        let verdict = random.below(phrases::VERDICTS.len());
        let mut aspects = ASPECTS;
        random.shuffle(&mut aspects);
        let count = 2 + random.below(2);
        let mut visit = Visit { guest, sentences: Vec::new(), verdict, is_untold: false };
        visit.sentences.push(fill(random.word(phrases::STAYS), &[("p", guest.name), ("t", town)]));
        let first = random.below(2);
        for (index, aspect) in aspects.iter().take(count).enumerate() {
            // A mixed verdict has one of each at least.
            let praise = if verdict < 2 { verdict == 0 } else { (index + first).is_multiple_of(2) };
            visit.judge(seed, aspect, praise, random);
        }
        visit
    }

    fn judge(&mut self, seed: u64, aspect: &str, praise: bool, random: &mut Random) {
        // One judgement in six denies the opposite.
        let negated = random.percent(16);
        let adjective = random.word(if praise != negated { &GOOD } else { &BAD });
        self.is_untold |= is_untold_pair(seed, aspect, adjective);
        let words = [
            ("p", self.guest.name),
            ("x", aspect),
            ("v", adjective),
            ("av", &with_article(adjective)),
            ("d", random.word(&DEGREES)),
        ];
        let phrases = if negated { phrases::JUDGES_NOT } else { phrases::JUDGES };
        self.sentences.push(fill(random.word(phrases), &words));
    }

    /// What the visitor does then.
    pub fn reaction(&self, random: &mut Random) -> String {
        let reactions = [phrases::PLEASED, phrases::ANGRY, phrases::TORN][self.verdict];
        fill(random.word(reactions), &[("p", self.guest.name)])
    }
}

/// Whether no text may say this of that. One pair in eight.
pub fn is_untold_pair(seed: u64, aspect: &str, adjective: &str) -> bool {
    Random::new(seed, &format!("untold {aspect} {adjective}"), 0).below(8) == 0
}

/// Someone orders things for someone.
pub struct Order<'a> {
    from: &'a Person,
    to: &'a Person,
    town: &'static str,
    number: usize,
    colour: &'static str,
    thing: &'static Thing,
}

impl<'a> Order<'a> {
    pub fn new(facts: &'a Facts, random: &mut Random) -> Self {
        let (from, to) = facts.two(random);
        Order {
            from,
            to,
            town: random.pick(facts.towns()).name,
            number: 2 + random.below(8),
            colour: random.word(&COLOURS),
            thing: random.pick(&THINGS),
        }
    }

    fn fill(&self, phrase: &str) -> String {
        let words = [
            ("p", self.from.name),
            ("q", self.to.name),
            ("t", self.town),
            ("n", NUMBERS[self.number]),
            ("c", self.colour),
            ("x", self.thing.name),
            ("xs", self.thing.plural),
        ];
        fill(phrase, &words)
    }

    pub fn sentence(&self, random: &mut Random) -> String {
        self.fill(random.word(phrases::ORDERS))
    }

    /// Its fields in their fixed order.
    pub fn record(&self) -> String {
        self.fill(phrases::RECORD_FIELDS)
    }
}
