//! What a run starts from: the model for its task, and its data.

use tensor::Device;

use super::Arguments;
use crate::Common;
use crate::data::task::Task;
use crate::data::{Shape, Sources};
use crate::failure::{Failure, Outcome};
use crate::inputs::{DataRequest, Judge, TaskData};
use crate::loading::{self, ClassifierOptions, Loaded, Weights};
use crate::output::Output;

/// The parts of a run.
pub struct Inputs {
    pub loaded: Loaded,
    pub sources: Sources,
    pub judge: Judge,
}

/// Reads all inputs; small and quick ones first, so that what is wrong with them is known soon.
pub fn read(arguments: &Arguments, common: &Common, device: &Device, output: &Output) -> Outcome<Inputs> {
    let target = arguments.task.target(&arguments.labels)?;
    if arguments.full.from_scratch && target.is_some() {
        return Err(Failure::input("--from-scratch is for --task causal, masked-lm and commonsense"));
    }
    let tokenizer = loading::tokenizer(&arguments.model)?;
    let request = DataRequest {
        task: arguments.task,
        target: target.as_ref(),
        data: &arguments.data,
        validation: &arguments.validation,
        shape: Shape { sequence: arguments.seq, batch: arguments.batch, seed: common.seed, rows: arguments.rows },
    };
    let rows = request.rows()?;
    let loaded = match &target {
        None => language_model(arguments, common, device, output)?,
        Some(target) => {
            let options = ClassifierOptions {
                weight_type: arguments.dtype.weight_type(),
                seed: common.seed,
                dropout: arguments.model_dropout(),
                checkpoint_activations: arguments.checkpoint_activations,
            };
            loading::classifier(&arguments.model, device, target, &options, output)?
        }
    };
    let TaskData { sources, judge } = request.batches(rows, &tokenizer, loaded.positions())?;
    Ok(Inputs { loaded, sources, judge })
}

fn language_model(arguments: &Arguments, common: &Common, device: &Device, output: &Output) -> Outcome<Loaded> {
    let weights = match arguments.full.from_scratch {
        true => Weights::Random { seed: common.seed },
        false => Weights::Stored(arguments.dtype.weight_type()),
    };
    if arguments.task == Task::MaskedLm {
        let model = loading::masked_model(&arguments.model, device, weights, arguments.model_dropout(), output)?;
        return Ok(Loaded::Masked(Box::new(model.with_checkpointed_activations(arguments.checkpoint_activations))));
    }
    let dropouts = [arguments.hidden_dropout, arguments.attention_dropout, arguments.classifier_dropout];
    if dropouts.iter().any(Option::is_some) {
        let message =
            "--hidden-dropout, --attention-dropout and --classifier-dropout belong to DeBERTa; LLaMA has no dropout";
        return Err(Failure::input(message));
    }
    let model = loading::language_model(&arguments.model, device, weights, output)?
        .with_checkpointed_activations(arguments.checkpoint_activations);
    Ok(Loaded::Language(Box::new(model)))
}
