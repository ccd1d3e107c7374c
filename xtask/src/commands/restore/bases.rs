//! The two bases of a run: their files, the one that is loaded, and old adapters as adapters of it.

use std::collections::BTreeMap;
use std::path::Path;

use lora::{AdapterOrigin, AdapterSet, Base, BaseIdentity, Model, ModuleShape, read_adapter_origin};
use models::{Checkpoint, DropoutOverrides, ModelUpdate, Side, Tokenizer};
use tensor::{Device, Tensor};

use super::arguments::Arguments;
use crate::Common;
use crate::data::task::Target;
use crate::failure::{Failure, Outcome};
use crate::loading::{self, ClassifierOptions, Loaded, Weights, lora_failure, model_failure};
use crate::output::Output;

/// Both checkpoints, and at most one model in memory.
pub struct Bases<'a> {
    arguments: &'a Arguments,
    common: &'a Common,
    output: &'a Output,
    device: Device,
    pub update: ModelUpdate,
    pub old: BaseIdentity,
    pub new: BaseIdentity,
    loaded: Option<(Side, Option<usize>, Loaded)>,
}

/// Weights of one side, as the evolution asks for them.
pub struct SideWeights<'a>(pub &'a ModelUpdate, pub Side);

impl relora::Weights for SideWeights<'_> {
    fn names(&self) -> Vec<String> {
        self.0.modules(self.1)
    }

    fn weight(&self, module: &str) -> lora::Result<Tensor> {
        self.0.weight(self.1, module).map_err(lora::LoraError::other)
    }
}

impl<'a> Bases<'a> {
    /// Compares the two checkpoints and opens the device.
    pub fn open(arguments: &'a Arguments, common: &'a Common, output: &'a Output) -> Outcome<Self> {
        for (flag, directory) in [("--old-model", &arguments.old_model), ("--new-model", &arguments.new_model)] {
            if !directory.is_dir() {
                return Err(Failure::input(format!("{flag} {}: no such directory", directory.display())));
            }
        }
        let update = ModelUpdate::open(&arguments.old_model, &arguments.new_model).map_err(model_failure)?;
        let identity = |side| update.checkpoint(side).identity().map_err(model_failure);
        let (old, new) = (identity(Side::Old)?, identity(Side::New)?);
        let (before, after) = (update.vocabulary(Side::Old), update.vocabulary(Side::New));
        if after > before {
            output.say(format!("the vocabulary grew from {before} to {after}: the new rows are the new base's own"));
        }
        let device = common.open_device(output)?;
        Ok(Bases { arguments, common, output, device, update, old, new, loaded: None })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    fn directory(&self, side: Side) -> &'a Path {
        match side {
            Side::Old => &self.arguments.old_model,
            Side::New => &self.arguments.new_model,
        }
    }

    pub fn tokenizer(&self, side: Side) -> Outcome<Tokenizer> {
        loading::tokenizer(self.directory(side))
    }

    /// The model of one side with a head for the target, loaded unless it is the one at hand.
    pub fn load(&mut self, side: Side, target: Option<&Target>) -> Outcome<()> {
        let outputs = target.map(Target::outputs);
        if self.loaded.as_ref().is_some_and(|(loaded, with, _)| (*loaded, *with) == (side, outputs)) {
            return Ok(());
        }
        // The other goes first: there is room for one.
        self.loaded = None;
        let weight_type = self.arguments.dtype.weight_type();
        let directory = self.directory(side);
        let model = match target {
            None => {
                let model =
                    loading::language_model(directory, &self.device, Weights::Stored(weight_type), self.output)?;
                Loaded::Language(Box::new(model))
            }
            Some(target) => {
                let options = ClassifierOptions {
                    weight_type,
                    seed: self.common.seed,
                    dropout: DropoutOverrides::default(),
                    checkpoint_activations: false,
                };
                loading::classifier(directory, &self.device, target, &options, self.output)?
            }
        };
        self.loaded = Some((side, outputs, model));
        Ok(())
    }

    /// The model at hand.
    pub fn loaded(&self) -> Outcome<&Loaded> {
        let missing = || Failure::input("no base is loaded");
        self.loaded.as_ref().map(|(_, _, loaded)| loaded).ok_or_else(missing)
    }

    /// An old adapter for the model at hand, and what its files say of it.
    pub fn adapter(&self, side: Side, directory: &Path) -> Outcome<(AdapterSet, AdapterOrigin)> {
        let model = self.loaded()?.model();
        let (before, after) = (self.update.vocabulary(Side::Old), self.update.vocabulary(Side::New));
        if side == Side::Old || before == after {
            return loading::adapter(directory, model, self.output);
        }
        let old = shrunk(model, before, after)?;
        let (adapter, origin) = AdapterSet::load(directory, old, model.device()).map_err(lora_failure)?;
        let grown = relora::transfer(&adapter, &Base::of(model), model.device()).map_err(lora_failure)?;
        Ok((grown, origin))
    }

    /// Refuses an adapter whose files name another base, as far as that can be looked at. Returns a remark where it cannot.
    pub fn check_origin(&self, adapter: &Path) -> Outcome<Option<String>> {
        let origin = read_adapter_origin(adapter).map_err(lora_failure)?;
        let base = origin.base_model.unwrap_or_else(|| "a base without name".into());
        let contents = match origin.provenance.and_then(|provenance| provenance.base) {
            Some(base) => base.contents,
            None => match Checkpoint::open(Path::new(&base)) {
                Ok(checkpoint) => checkpoint.fingerprint(),
                Err(_) => {
                    return Ok(Some(format!(
                        "it was trained on {base}, which is not here to be compared with --old-model"
                    )));
                }
            },
        };
        let adapter = adapter.display();
        if contents == self.old.contents {
            return Ok(None);
        }
        let message = if contents == self.new.contents {
            format!("adapter {adapter}: was trained on {base}, which is the new base already")
        } else {
            let old = self.arguments.old_model.display();
            format!(
                "adapter {adapter}: was trained on {base}, whose weights are not those of --old-model {old}; give the base it was \
                 trained on"
            )
        };
        self.arguments.base_check.judge(message, self.output)?;
        Ok(Some(format!("it was trained on {base}, which is not --old-model")))
    }
}

/// A base of the new model's modules with a vocabulary of the old size.
fn shrunk(model: &dyn Model, before: usize, after: usize) -> Outcome<Base> {
    let modules: Vec<ModuleShape> = model.modules();
    let grew: Vec<String> = modules
        .iter()
        .filter(|module| (module.embedding && module.inputs == after) || (module.head && module.outputs == after))
        .map(|module| module.name.clone())
        .collect();
    let mut parameters = BTreeMap::new();
    for path in modules.iter().map(|module| module.name.clone()).chain(model.savable_modules()) {
        let mut values = model.saved_module(&path);
        if grew.contains(&path) {
            for (_, value) in &mut values {
                *value = value.slice(0, 0, before)?.contiguous()?;
            }
        }
        if !values.is_empty() {
            parameters.insert(path, values);
        }
    }
    let smaller = |module: ModuleShape| match (grew.contains(&module.name), module.embedding) {
        (false, _) => module,
        (true, true) => ModuleShape { inputs: before, ..module },
        (true, false) => ModuleShape { outputs: before, ..module },
    };
    Ok(Base::from_parts(modules.into_iter().map(smaller).collect(), parameters))
}
