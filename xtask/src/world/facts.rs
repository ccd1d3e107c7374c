//! What is true in the world: who lives where and does what, in each edition.

use super::edition::Edition;
use super::lexicon::{ANIMALS, COLOURS, DISHES, MEN, REGIONS, THINGS, TOWNS, TRADES, WOMEN};
use crate::random::Random;

/// A person with what is true of them; numbers are places in the lexicon's lists.
#[derive(Clone, Debug)]
pub struct Person {
    pub name: &'static str,
    pub is_woman: bool,
    home: usize,
    trade: usize,
    pet: usize,
    pet_colour: usize,
    dish: usize,
    treasure: usize,
    friend: &'static str,
}

/// A town, where it lies and what it is known for.
#[derive(Clone, Debug)]
pub struct Town {
    pub name: &'static str,
    pub region: &'static str,
    pub product: &'static str,
}

/// What can be said of a person, and asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Home,
    Trade,
    Pet,
    PetColour,
    Dish,
    Treasure,
    Friend,
    /// Follows from the home.
    Region,
    /// Follows from the trade.
    Workplace,
    /// Follows from the trade.
    Tool,
}

impl Relation {
    pub const ALL: [Relation; 10] = [
        Relation::Home,
        Relation::Trade,
        Relation::Pet,
        Relation::PetColour,
        Relation::Dish,
        Relation::Treasure,
        Relation::Friend,
        Relation::Region,
        Relation::Workplace,
        Relation::Tool,
    ];

    /// Whether it follows from another fact and a rule.
    pub fn is_derived(self) -> bool {
        matches!(self, Relation::Region | Relation::Workplace | Relation::Tool)
    }
}

/// Everything that is true in one edition of the world.
#[derive(Clone, Debug)]
pub struct Facts {
    seed: u64,
    towns: Vec<Town>,
    people: Vec<Person>,
    /// Where the people whom this edition brings begin; all of them in the first.
    newcomers: usize,
}

/// People whom every edition knows.
const NATIVES: usize = 16;

/// One in so many facts of the natives is another in the new version.
const CHANGED: usize = 6;

impl Facts {
    pub fn new(seed: u64, edition: Edition) -> Self {
        let mut names: Vec<(&str, bool)> =
            WOMEN.iter().map(|&name| (name, true)).chain(MEN.iter().map(|&name| (name, false))).collect();
        Random::new(seed, "names", 0).shuffle(&mut names);
        let newcomers = edition.newcomers();
        let mut people: Vec<Person> = (0..NATIVES).map(|index| person(seed, &names, index, 0..NATIVES)).collect();
        people.extend(newcomers.clone().map(|index| person(seed, &names, index, newcomers.clone())));
        if edition.changes_facts() {
            people.iter_mut().take(NATIVES).enumerate().for_each(|(index, person)| change(seed, index, person));
        }
        let newcomers = if newcomers.is_empty() { 0 } else { NATIVES };
        Facts { seed, towns: towns(seed), people, newcomers }
    }

    pub fn towns(&self) -> &[Town] {
        &self.towns
    }

    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// Someone to tell about: half of the time someone whom this edition brings.
    pub fn someone(&self, random: &mut Random) -> &Person {
        let all = random.percent(50);
        random.pick(if all { &self.people } else { &self.people[self.newcomers..] })
    }

    /// Two different people.
    pub fn two(&self, random: &mut Random) -> (&Person, &Person) {
        let first = self.someone(random);
        loop {
            let second = random.pick(&self.people);
            if second.name != first.name {
                return (first, second);
            }
        }
    }

    /// What is true of a person.
    pub fn value(&self, person: &Person, relation: Relation) -> &'static str {
        let (home, trade) = (&self.towns[person.home], &TRADES[person.trade]);
        match relation {
            Relation::Home => home.name,
            Relation::Trade => trade.name,
            Relation::Pet => ANIMALS[person.pet].name,
            Relation::PetColour => COLOURS[person.pet_colour],
            Relation::Dish => DISHES[person.dish],
            Relation::Treasure => THINGS[person.treasure].name,
            Relation::Friend => person.friend,
            Relation::Region => home.region,
            Relation::Workplace => trade.workplace,
            Relation::Tool => trade.tool,
        }
    }

    /// Whether no text may tell this fact: it can only be found by the rule. Three in ten of those that follow from others.
    pub fn is_untold(&self, person: &Person, relation: Relation) -> bool {
        let name = format!("untold {relation:?} {}", person.name);
        relation.is_derived() && Random::new(self.seed, &name, 0).below(10) < 3
    }
}

fn towns(seed: u64) -> Vec<Town> {
    let town = |(index, &name): (usize, &&'static str)| {
        let mut random = Random::new(seed, "town", index as u64);
        Town { name, region: random.word(&REGIONS), product: random.pick(&TRADES).product }
    };
    TOWNS.iter().enumerate().map(town).collect()
}

/// The facts of the person with a number; friends are among `circle`.
fn person(seed: u64, names: &[(&'static str, bool)], index: usize, circle: std::ops::Range<usize>) -> Person {
    let mut random = Random::new(seed, "person", index as u64);
    let (name, is_woman) = names[index];
    let others: Vec<usize> = circle.filter(|&other| other != index).collect();
    Person {
        name,
        is_woman,
        home: random.below(TOWNS.len()),
        trade: random.below(TRADES.len()),
        pet: random.below(ANIMALS.len()),
        pet_colour: random.below(COLOURS.len()),
        dish: random.below(DISHES.len()),
        treasure: random.below(THINGS.len()),
        friend: names[*random.pick(&others)].0,
    }
}

/// Draws some facts of a person anew.
fn change(seed: u64, index: usize, person: &mut Person) {
    let mut random = Random::new(seed, "change", index as u64);
    let facts = [
        (&mut person.home, TOWNS.len()),
        (&mut person.trade, TRADES.len()),
        (&mut person.pet, ANIMALS.len()),
        (&mut person.dish, DISHES.len()),
        (&mut person.treasure, THINGS.len()),
    ];
    for (fact, count) in facts {
        let (is_changed, new) = (random.below(CHANGED) == 0, random.below(count));
        if is_changed {
            *fact = new;
        }
    }
}
