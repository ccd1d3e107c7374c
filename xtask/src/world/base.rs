//! A base that was pretrained on the world, and its updates, as checkpoints that are made once: they are kept in a directory
//! under a name that follows from everything that made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use autograd::{AdamW, AdamWConfig, Decay, Schedule};
use lora::{AdapterSet, Base, Length, PackedTokens, Trainer, TrainingOptions, evaluate};
use models::{Llama, LlamaConfig, Tokenizer, WeightType};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tensor::{DType, Device, RandomKey};

use super::files::{BaseShape, write_model_files};
use super::{Edition, GENERATOR_VERSION, Split, World};
use crate::checkpoints::write_trained;
use crate::commands::finetune::Progress;
use crate::failure::{Failure, Outcome};
use crate::loading::{lora_failure, model_failure};
use crate::output::Output;

/// Increased when the same recipe makes another checkpoint than before.
const PRETRAINING_VERSION: u32 = 1;

/// What a checkpoint's directory says of it, beside the model's own files.
const ACCOUNT_FILE: &str = "world.json";

/// Sentences of the held-out text on which losses are measured.
const JUDGED_SENTENCES: usize = 800;

/// Fewer tokens than a sentence has on the average, so that there is text for every step.
const TOKENS_PER_SENTENCE: u64 = 8;

/// How a base is pretrained. Every step reads new text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    pub shape: BaseShape,
    pub steps: u64,
    /// Sequences in a batch.
    pub batch: usize,
    /// Tokens in a sequence.
    pub sequence: usize,
    /// The highest learning rate, after a warm-up and before a cosine's fall to a tenth.
    pub rate: f32,
}

impl Recipe {
    /// About a million weights and 1.2 million tokens. Fewer than some 2,000 steps leave a base that knows the language and
    /// cannot yet repeat what it read: tasks whose answers stand in the prompt are then out of an adapter's reach.
    pub const SMALL: Recipe = Recipe { shape: BaseShape::SMALL, steps: 2400, batch: 8, sequence: 64, rate: 3e-3 };
}

/// A checkpoint of the world.
#[derive(Clone, Debug)]
pub struct WorldModel {
    pub directory: PathBuf,
    pub account: Account,
    /// It was there already.
    pub is_reused: bool,
}

/// What is told of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Everything that decides its weights.
    pub made_of: String,
    pub steps: u64,
    /// The time that its training took.
    pub seconds: f64,
    /// For each edition's held-out text: the loss before and after.
    pub losses: BTreeMap<String, (f64, f64)>,
}

/// Makes checkpoints of a world by a recipe, or takes them from where they are kept.
#[derive(Clone, Copy)]
pub struct Pretraining<'a> {
    pub world: &'a World,
    pub recipe: Recipe,
    /// Where checkpoints are kept, for instance [`default_cache`].
    pub cache: &'a Path,
    pub device: &'a Device,
    pub output: &'a Output,
}

impl Pretraining<'_> {
    /// The base.
    pub fn base(&self) -> Outcome<WorldModel> {
        self.kept_or_made(Edition::Base, None, self.recipe.steps)
    }

    /// An update of a base: trained further on the text of another edition, `size` times as long as the edition suggests, at
    /// a third of the base's learning rate.
    pub fn update(&self, base: &WorldModel, edition: Edition, size: f64) -> Outcome<WorldModel> {
        self.of_update().kept_or_made(edition, Some(base), self.update_steps(edition, size))
    }

    /// Steps of training that the base and these updates (of size 1) take, where they are not there yet.
    pub fn steps_to_do(&self, updates: &[Edition]) -> u64 {
        let (base, steps) = (self.made_of(Edition::Base, None, self.recipe.steps), self.recipe.steps);
        let of_update = |&edition: &Edition| {
            let steps = self.update_steps(edition, 1.0);
            (edition, self.of_update().made_of(edition, Some(&base), steps), steps)
        };
        let all = [(Edition::Base, base.clone(), steps)].into_iter().chain(updates.iter().map(of_update));
        all.filter(|(edition, made_of, _)| self.kept(*edition, made_of).is_none()).map(|(_, _, steps)| steps).sum()
    }

    fn update_steps(&self, edition: Edition, size: f64) -> u64 {
        ((self.recipe.steps as f64 * edition.relative_size() * size).ceil() as u64).max(1)
    }

    fn of_update(&self) -> Self {
        Pretraining { recipe: Recipe { rate: self.recipe.rate / 3.0, ..self.recipe }, ..*self }
    }

    /// Everything that decides a checkpoint's weights; `base` is what its base is made of.
    fn made_of(&self, edition: Edition, base: Option<&str>, steps: u64) -> String {
        json!({
            "generator": GENERATOR_VERSION, "pretraining": PRETRAINING_VERSION, "version": env!("CARGO_PKG_VERSION"),
            "seed": self.world.seed, "edition": edition.name(), "recipe": self.recipe, "steps": steps,
            "device": self.device.to_string(), "base": base,
        })
        .to_string()
    }

    fn directory(&self, edition: Edition, made_of: &str) -> PathBuf {
        self.cache.join(format!("{}-{:016x}", edition.name(), RandomKey::named(0, made_of, 0).stream))
    }

    /// The checkpoint, where it is there already.
    fn kept(&self, edition: Edition, made_of: &str) -> Option<WorldModel> {
        let directory = self.directory(edition, made_of);
        let account = read_account(&directory).filter(|account| account.made_of == made_of)?;
        Some(WorldModel { directory, account, is_reused: true })
    }

    fn kept_or_made(&self, edition: Edition, base: Option<&WorldModel>, steps: u64) -> Outcome<WorldModel> {
        let made_of = self.made_of(edition, base.map(|base| base.account.made_of.as_str()), steps);
        if let Some(kept) = self.kept(edition, &made_of) {
            return Ok(kept);
        }
        let directory = self.directory(edition, &made_of);
        // Made under another name, so that a directory with the right name is whole.
        let refused = |error| refused(self.cache, &error);
        let partial = partial_directory(self.cache)?;
        self.output.say(format!("training the world's model ({}): {steps} steps", edition.name()));
        let account = Account { made_of, ..self.make(edition, base, steps, partial.path())? };
        let text = serde_json::to_string_pretty(&account)? + "\n";
        lora::write_whole(&partial.path().join(ACCOUNT_FILE), text.as_bytes()).map_err(lora_failure)?;
        if directory.exists() {
            // Damaged, or by chance of the same key.
            std::fs::remove_dir_all(&directory).map_err(refused)?;
        }
        std::fs::rename(partial.keep(), &directory).map_err(refused)?;
        Ok(WorldModel { directory, account, is_reused: false })
    }

    /// Trains a model and writes its checkpoint.
    fn make(&self, edition: Edition, base: Option<&WorldModel>, steps: u64, out: &Path) -> Outcome<Account> {
        write_model_files(out, self.recipe.shape)?;
        let tokenizer = Tokenizer::read(out).map_err(model_failure)?;
        let (model, judged) = match base {
            None => {
                let config = LlamaConfig::read(&out.join("config.json")).map_err(model_failure)?;
                (Llama::random(config, self.world.seed, self.device, WeightType::F32), vec![edition])
            }
            Some(base) => {
                let model = Llama::from_directory(&base.directory, self.device, WeightType::F32);
                (model, vec![Edition::Base, edition])
            }
        };
        let model = model.map_err(model_failure)?;
        let set = AdapterSet::full(Base::of(&model), self.device).map_err(lora_failure)?;
        let before = self.losses(&model, &set, &tokenizer, &judged)?;
        let started = Instant::now();
        let set = self.train(&model, set, &tokenizer, edition, steps)?;
        let seconds = started.elapsed().as_secs_f64();
        let after = self.losses(&model, &set, &tokenizer, &judged)?;
        let names = judged.iter().map(|edition| edition.name().to_string());
        let losses = names.zip(before.into_iter().zip(after)).collect();
        write_trained(&set, DType::F32, out, out)?;
        Ok(Account { made_of: String::new(), steps, seconds, losses })
    }

    fn train(
        &self,
        model: &Llama,
        set: AdapterSet,
        tokenizer: &Tokenizer,
        edition: Edition,
        steps: u64,
    ) -> Outcome<AdapterSet> {
        let Recipe { batch, sequence, rate, .. } = self.recipe;
        let block = (batch * sequence) as u64;
        let sentences = (steps + 1) * block / TOKENS_PER_SENTENCE;
        let text = self.world.text(edition, Split::Training, sentences as usize);
        let tokens = tokenizer.encode(&text, false).map_err(model_failure)?;
        let source = PackedTokens::shuffled(tokens, sequence, batch, self.world.seed).map_err(lora_failure)?;
        let decay = Decay::Cosine { floor: 0.1 };
        let schedule = Schedule { peak: rate, warmup_steps: steps.div_ceil(20), total_steps: steps, decay };
        let options = TrainingOptions { seed: self.world.seed, ..TrainingOptions::new(Length::Steps(steps), schedule) };
        let optimizer = AdamW::new(AdamWConfig::default());
        let trainer = Trainer::new(model, set, optimizer, options).map_err(lora_failure)?;
        let trainer = trainer.with_observer(Progress::new(self.output, steps, 0, true));
        let trained = trainer.run(&source, None).map_err(lora_failure)?;
        if trained.stopped {
            return Err(Failure::Interrupted("interrupted while the world's model was trained; it is not kept".into()));
        }
        Ok(trained.adapters)
    }

    /// The loss on every edition's held-out text.
    fn losses(
        &self,
        model: &Llama,
        set: &AdapterSet,
        tokenizer: &Tokenizer,
        editions: &[Edition],
    ) -> Outcome<Vec<f64>> {
        let loss = |&edition: &Edition| {
            let text = self.world.text(edition, Split::Validation, JUDGED_SENTENCES);
            let tokens = tokenizer.encode(&text, false).map_err(model_failure)?;
            let Recipe { sequence, batch, .. } = self.recipe;
            let source = PackedTokens::in_order(tokens, sequence, batch).map_err(lora_failure)?;
            Ok(evaluate(model, Some(set), &source).map_err(lora_failure)?.loss)
        };
        editions.iter().map(loss).collect()
    }
}

fn refused(cache: &Path, error: &std::io::Error) -> Failure {
    Failure::input(format!(
        "the directory for the world's models, {}: {error}; CARGO_TARGET_DIR moves it",
        cache.display()
    ))
}

/// An empty directory among the checkpoints; it goes when it is dropped.
fn partial_directory(cache: &Path) -> Outcome<tempfile::TempDir> {
    std::fs::create_dir_all(cache).map_err(|error| refused(cache, &error))?;
    tempfile::tempdir_in(cache).map_err(|error| refused(cache, &error))
}

/// Fails where checkpoints could not be kept.
pub fn check_cache() -> Outcome<()> {
    partial_directory(&default_cache()).map(drop)
}

fn read_account(directory: &Path) -> Option<Account> {
    serde_json::from_slice(&std::fs::read(directory.join(ACCOUNT_FILE)).ok()?).ok()
}

/// Where checkpoints of the world are kept when nothing is said: under the workspace's build outputs.
pub fn default_cache() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join("world")
}
