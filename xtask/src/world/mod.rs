//! The embedded world: text to pretrain a small base on, texts to update it with, and tasks to train adapters for, all
//! generated here, so that benchmarks need no download.
//!
//! What the world is. Twenty-eight people live in ten towns; each has a home, a trade, a pet with a colour, a favourite dish,
//! a treasure and a friend, all drawn at random. Towns lie in one of four regions and are known for a product. Ten trades,
//! ten animals and ten things have fixed properties, so that some facts follow from others: who is a smith works
//! in the forge with the hammer; who lives in a town of the north lives in the north. Texts are paragraphs of English
//! sentences, three to five phrasings for each fact, with pronouns: lives of people, towns, animals, trades and things; stories
//! in which a thing is carried about and ends somewhere; additions and subtractions up to nine, bare and told; visits to inns
//! with praise and blame, partly denied, and what the guest then does; orders; songs whose words are repeated; dialogues; a few
//! ships' logs.
//!
//! What no text tells, so that it must be inferred ("untold"): three in ten of the facts that follow from others, one in
//! five of the sums, one in eight of the pairs of what is judged and the adjective. Training rows of tasks avoid them, too;
//! validation and test rows have them.
//!
//! Updates ([`Edition`]) are texts for continued pretraining: more of the same with new people; ships' logs (new words, new
//! style); questions and instructions; a new version with new people, a sixth of the facts changed and other styles.
//!
//! Tasks ([`Task`]) are rows of prompt and completion. Splits are made by content: no person's fact, no sum and no prompt is
//! in two splits. Tasks ask nothing that an update makes false.
//!
//! How it is used:
//! ```text
//! let world = World::new(seed);
//! files::write_model_files(directory, BaseShape::SMALL)?;                // config.json, tokenizer.json, ...
//! let text = world.text(Edition::Base, Split::Training, 20_000);         // sentences; also Split::Validation
//! let update = world.text(Edition::Large, Split::Training, 20_000);      // Edition::relative_size: a suggestion
//! let pretraining = Pretraining { world: &world, recipe: Recipe::SMALL, cache: &default_cache(), device, output };
//! let base = pretraining.base()?;                                        // made once, then reused; base.directory
//! let new = pretraining.update(&base, Edition::Large, 1.0)?;             // 1.0: as long as the edition suggests
//! let rows = world.rows(Task::Questions, Split::Training, 2_000);        // distinct rows; files::json_lines for a file
//! ```
//! Everything is decided by the seed: the same bytes on every machine. More sentences or rows begin with the same ones.
//! Tokens are words in lower case and single punctuation marks; the vocabulary does not depend on the seed. The line end
//! separates paragraphs and is the token that begins and ends sequences. The world is as small as it is so that a
//! base of a million weights learns, in minutes on a CPU, to repeat what it read in a paragraph, without which there would be
//! little for an adapter to build on. Nothing here was chosen by the outcome of a method.

pub mod base;
mod documents;
mod edition;
mod facts;
pub mod files;
mod lexicon;
mod phrases;
mod scenes;
mod tasks;
#[cfg(test)]
mod tests;

pub use base::{Pretraining, Recipe, WorldModel, check_cache, default_cache};
pub use edition::Edition;
pub use files::{Amounts, BaseShape};
pub use tasks::{Row, Task};

use crate::random::Random;
use documents::{Document, Writer};
use facts::Facts;

/// Increased when the same seed gives other text or rows than before.
pub const GENERATOR_VERSION: u32 = 2;

/// What text or rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Training,
    Validation,
    Test,
}

impl Split {
    pub const ALL: [Split; 3] = [Split::Training, Split::Validation, Split::Test];

    pub fn name(self) -> &'static str {
        match self {
            Split::Training => "training",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// Three fifths of all keys are for training.
fn split_of(seed: u64, key: &str) -> Split {
    match Random::new(seed, key, 0).below(5) {
        0 => Split::Validation,
        1 => Split::Test,
        _ => Split::Training,
    }
}

/// A world with its people and their facts; see the module.
pub struct World {
    seed: u64,
    /// In the order of [`Edition::ALL`].
    editions: [Facts; 5],
}

impl World {
    pub fn new(seed: u64) -> Self {
        World { seed, editions: Edition::ALL.map(|edition| Facts::new(seed, edition)) }
    }

    fn facts(&self, edition: Edition) -> &Facts {
        &self.editions[edition as usize]
    }

    /// At least so many sentences of an edition, in whole paragraphs, one a line.
    pub fn text(&self, edition: Edition, split: Split, sentences: usize) -> String {
        let stream = format!("text {} {}", edition.name(), split.name());
        let mixture = edition.mixture();
        let (mut text, mut written) = (String::new(), 0);
        for index in 0.. {
            if written >= sentences {
                break;
            }
            let mut random = Random::new(self.seed, &stream, index);
            let document = draw(mixture, &mut random);
            let paragraph = Writer { seed: self.seed, facts: self.facts(edition), random }.write(document);
            written += paragraph.len();
            text.push_str(&paragraph.join(" "));
            text.push('\n');
        }
        text
    }
}

/// One of the kinds, by their shares.
fn draw(mixture: &[(Document, usize)], random: &mut Random) -> Document {
    let mut rest = random.below(mixture.iter().map(|(_, share)| share).sum());
    for &(document, share) in mixture {
        if rest < share {
            return document;
        }
        rest -= share;
    }
    Document::Biography
}
