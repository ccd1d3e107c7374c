//! The embedded world: what it is, and how its models were pretrained.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::part;
use crate::failure::Outcome;
use crate::report::{Figure, Section, Table};

#[derive(Deserialize)]
struct Model {
    name: String,
    steps: u64,
    /// By edition, before and after.
    losses: BTreeMap<String, (f64, f64)>,
}

pub fn section(raw: &Value) -> Outcome<Section> {
    let models: Vec<Model> = raw.get("models").map_or(Ok(Vec::new()), part)?;
    let loss = |model: &Model, edition: &str| {
        let losses = model.losses.get(edition);
        losses.map_or("-".into(), |(before, after)| format!("{before:.3} to {after:.3}"))
    };
    let row = |model: &Model| {
        vec![model.name.clone(), model.steps.to_string(), loss(model, "base"), loss(model, &model.name)]
    };
    let table = Table {
        title: "Its models".into(),
        note: "Losses on held-out text, before and after training.".into(),
        timed: false,
        header: ["model", "steps", "on the base's text", "on its own text"].map(str::to_string).into(),
        rows: models.iter().map(row).collect(),
    };
    Ok(Section {
        title: "The world that models are trained on".into(),
        text: TEXT.iter().map(|words| words.to_string()).collect(),
        figures: vec![Figure::Table(table)],
        ..Section::default()
    })
}

const TEXT: [&str; 2] = [
    "No download is needed: text, tasks and the base model are generated here. Twenty-eight people live in ten towns, with homes, \
     trades, pets, treasures and friends that are drawn at random; paragraphs of English sentences tell of them, of animals and \
     trades, of things that are carried about, of sums, of visits to inns, orders and songs. Some facts no text tells: they \
     have to be inferred from others.",
    "A LLaMA of about a million weights is pretrained on that text. Its updates are continued pretraining on other text: \
     domain-shift on ships' logs with their own words, large on a new version in which people were added and a sixth of the \
     facts changed. Adapters are trained on rows of prompt and completion: questions about stories, sums and facts; or orders \
     in prose that become a record of six fields. Nothing in it was chosen by the outcome of a method; results on so small a model \
     need not be those on a large one.",
];
