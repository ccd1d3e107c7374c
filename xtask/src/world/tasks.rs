//! Tasks: rows of a prompt and what is to be said after it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::documents::{ask, key};
use super::facts::Relation;
use super::phrases::{self, fill};
use super::scenes::{Order, Story, Sum, Visit};
use super::{Edition, Split, World, split_of};
use crate::random::Random;

/// What an adapter is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Task {
    /// Is a visitor's report good, bad or mixed? Judgements may be denied ("not at all dull").
    Classification,
    /// One word in answer to a question: about a story before it, a sum, or a fact of the world, a third each. Facts are
    /// asked for that are the same in every edition.
    Questions,
    /// An order in prose as a record with six named fields.
    Format,
}

impl Task {
    pub const ALL: [Task; 3] = [Task::Classification, Task::Questions, Task::Format];

    pub fn name(self) -> &'static str {
        match self {
            Task::Classification => "classification",
            Task::Questions => "questions",
            Task::Format => "format",
        }
    }

    /// All completions, where they are few.
    pub fn labels(self) -> &'static [&'static str] {
        if self == Task::Classification { &phrases::VERDICTS } else { &[] }
    }
}

/// One example of a task, as `finetune --data FILE.jsonl` reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    pub prompt: String,
    /// Begins with a space.
    pub completion: String,
}

/// A row before it is known which split may have it.
struct Candidate {
    row: Row,
    /// Rows with one key are in one split.
    key: String,
    /// It needs what no text tells: not for training.
    is_untold: bool,
}

/// So many candidates in a row that give nothing new mean that there is nothing new.
const PATIENCE: usize = 2000;

impl World {
    /// Rows of a task, all different: as many as asked for, or as many as there are. The first rows are the same whatever
    /// the count. No two splits share a fact, a sum or a prompt, and what no text tells is not in training rows.
    pub fn rows(&self, task: Task, split: Split, count: usize) -> Vec<Row> {
        let (mut rows, mut seen, mut misses) = (Vec::new(), BTreeSet::new(), 0);
        for index in 0.. {
            if rows.len() == count || misses == PATIENCE {
                break;
            }
            let Candidate { row, key, is_untold } = self.candidate(task, index);
            let is_ours = self.split(&key, is_untold) == split;
            misses += 1;
            if is_ours && seen.insert(row.clone()) {
                rows.push(row);
                misses = 0;
            }
        }
        rows
    }

    /// What is untold is for validation and testing, by halves.
    fn split(&self, key: &str, is_untold: bool) -> Split {
        match split_of(self.seed, key) {
            Split::Training if is_untold && Random::new(self.seed, key, 1).percent(50) => Split::Validation,
            Split::Training if is_untold => Split::Test,
            split => split,
        }
    }

    fn candidate(&self, task: Task, index: u64) -> Candidate {
        let mut random = Random::new(self.seed, task.name(), index);
        match task {
            Task::Classification => {
                let visit = Visit::new(self.seed, self.facts(Edition::Base), &mut random);
                let prompt = fill(phrases::VERDICT, &[("review", &visit.sentences.join(" "))]);
                Candidate::new(prompt, phrases::VERDICTS[visit.verdict], visit.is_untold)
            }
            Task::Questions => self.question(&mut random),
            Task::Format => {
                let order = Order::new(self.facts(Edition::Base), &mut random);
                let prompt = fill(phrases::RECORD, &[("order", &order.sentence(&mut random))]);
                Candidate::new(prompt, &order.record(), false)
            }
        }
    }

    fn question(&self, random: &mut Random) -> Candidate {
        let facts = self.facts(Edition::Base);
        let about = |story: &[String], question: &str| {
            fill(phrases::QUESTION_ABOUT, &[("story", &story.join(" ")), ("question", question)])
        };
        match random.below(3) {
            0 => {
                let events = 1 + random.below(3);
                let story = Story::new(facts, events, random);
                let answered = story.question(random);
                Candidate::new(about(&story.sentences, &answered.question), &answered.word, false)
            }
            1 => {
                let sum = Sum::draw(random);
                let (prompt, word) = if random.percent(50) {
                    let answered = sum.bare(random);
                    (fill(phrases::QUESTION, &[("question", &answered.question)]), answered.word)
                } else {
                    let (story, answered) = sum.told(facts, random);
                    (about(&story, &answered.question), answered.word)
                };
                let is_untold = sum.is_untold(self.seed);
                Candidate { key: sum.key(), ..Candidate::new(prompt, &word, is_untold) }
            }
            _ => loop {
                let (person, relation) = (facts.someone(random), *random.pick(&Relation::ALL));
                if self.is_lasting(person.name, relation) {
                    let answered = ask(facts, person, relation, random);
                    let prompt = fill(phrases::QUESTION, &[("question", &answered.question)]);
                    let is_untold = facts.is_untold(person, relation);
                    break Candidate {
                        key: key(person, relation),
                        ..Candidate::new(prompt, &answered.word, is_untold)
                    };
                }
            },
        }
    }

    /// Whether a fact is the same in every edition that knows the person.
    fn is_lasting(&self, name: &str, relation: Relation) -> bool {
        let values = self.editions.iter().filter_map(|facts| {
            let person = facts.people().iter().find(|person| person.name == name)?;
            Some(facts.value(person, relation))
        });
        values.collect::<BTreeSet<_>>().len() == 1
    }
}

impl Candidate {
    fn new(prompt: String, completion: &str, is_untold: bool) -> Self {
        Candidate { key: prompt.clone(), row: Row { prompt, completion: format!(" {completion}") }, is_untold }
    }
}
