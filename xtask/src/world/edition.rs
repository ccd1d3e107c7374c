//! Editions of the world: what the base learns from, and what its updates learn from.

use std::ops::Range;

use super::documents::Document;

/// What a text is for: the base's pretraining, or one kind of update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Edition {
    /// The base's pretraining.
    Base,
    /// More of the same, with three new people.
    Mild,
    /// Ships' logs with their own words and style, and three new people; little else.
    DomainShift,
    /// Questions with answers, and instructions with responses.
    Instruction,
    /// A new version: six new people, a sixth of the old facts changed, letters and registers as new styles, questions and
    /// logs, and the old kinds of text in new shares.
    Large,
}

impl Edition {
    pub const ALL: [Edition; 5] =
        [Edition::Base, Edition::Mild, Edition::DomainShift, Edition::Instruction, Edition::Large];

    /// The kinds of update.
    pub const UPDATES: [Edition; 4] = [Edition::Mild, Edition::DomainShift, Edition::Instruction, Edition::Large];

    pub fn name(self) -> &'static str {
        match self {
            Edition::Base => "base",
            Edition::Mild => "mild",
            Edition::DomainShift => "domain-shift",
            Edition::Instruction => "instruction",
            Edition::Large => "large",
        }
    }

    /// How long to train on it, as a share of the base's pretraining.
    pub fn relative_size(self) -> f64 {
        match self {
            Edition::Base | Edition::Large => 1.0,
            Edition::Mild => 0.15,
            Edition::DomainShift | Edition::Instruction => 0.3,
        }
    }

    /// Numbers of the people whom it brings.
    pub(super) fn newcomers(self) -> Range<usize> {
        match self {
            Edition::Base | Edition::Instruction => 0..0,
            Edition::Mild => 16..19,
            Edition::DomainShift => 19..22,
            Edition::Large => 22..28,
        }
    }

    /// Whether facts of the base's people are changed.
    pub(super) fn changes_facts(self) -> bool {
        self == Edition::Large
    }

    /// What its text is made of, in shares of paragraphs.
    pub(super) fn mixture(self) -> &'static [(Document, usize)] {
        use Document::{
            Animal, Biography, Dialogue, Instruction, Letter, Order, Question, Register, Song, Story, Sums, Thing,
            Town, Visit, Voyage,
        };
        match self {
            Edition::Base | Edition::Mild => &[
                (Biography, 28),
                (Town, 6),
                (Animal, 6),
                (Thing, 5),
                (Story, 18),
                (Sums, 10),
                (Visit, 14),
                (Order, 7),
                (Song, 25),
                (Dialogue, 4),
                (Voyage, 2),
            ],
            Edition::DomainShift => &[(Voyage, 85), (Biography, 8), (Town, 4), (Sums, 3)],
            Edition::Instruction => &[(Question, 50), (Instruction, 40), (Biography, 5), (Story, 5)],
            Edition::Large => &[
                (Biography, 22),
                (Town, 4),
                (Animal, 3),
                (Thing, 3),
                (Story, 10),
                (Sums, 8),
                (Visit, 6),
                (Order, 6),
                (Song, 15),
                (Dialogue, 4),
                (Voyage, 8),
                (Letter, 12),
                (Register, 6),
                (Question, 5),
                (Instruction, 3),
            ],
        }
    }
}
