//! `generate`: continues a prompt, streaming.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use models::{Finish, GenerationOptions, Sampling, WeightType};
use serde_json::json;

use crate::Common;
use crate::failure::{Failure, Outcome};
use crate::identity::BaseCheck;
use crate::interrupt;
use crate::loading::{self, Weights, model_failure};
use crate::output::Output;

/// Example: cargo xtask generate --model path/to/llama --adapter my-adapter --prompt "Once upon a time"
#[derive(clap::Args)]
pub struct Arguments {
    /// Directory of a Hugging Face checkpoint, or its name on the hub (owner/name).
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of a PEFT adapter.
    #[arg(long)]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    base_check: BaseCheck,
    /// Text to continue.
    #[arg(long)]
    prompt: String,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token every time; above 0 tokens are drawn, the likelier the lower the temperature.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Do not put the tokenizer's start token in front of the prompt.
    #[arg(long)]
    no_bos: bool,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    interrupt::watch();
    let device = common.open_device(output)?;
    let tokenizer = loading::tokenizer(&arguments.model)?;
    let model = loading::language_model(&arguments.model, &device, Weights::Stored(WeightType::F32), output)?;
    let adapters = match &arguments.adapter {
        Some(directory) => {
            arguments.base_check.check(directory, &arguments.model, output)?;
            Some(loading::adapter(directory, &model, output)?.0)
        }
        None => None,
    };
    let mut prompt = tokenizer.encode(&arguments.prompt, false).map_err(model_failure)?;
    if let (false, Some(bos)) = (arguments.no_bos, tokenizer.bos()) {
        prompt.insert(0, bos);
    }
    let sampling = match arguments.temperature {
        0.0 => Sampling::Greedy,
        temperature => Sampling::Nucleus { temperature, top_p: arguments.top_p, seed: common.seed },
    };
    let stop_tokens = model.config().eos_token_ids.clone();
    let options = GenerationOptions { max_new_tokens: arguments.max_new_tokens, sampling, stop_tokens };

    output.stream(&arguments.prompt);
    let started = Instant::now();
    let mut stream = tokenizer.stream();
    let mut trouble = None;
    let generated = models::generate(&model, adapters.as_ref(), &prompt, &options, |token| {
        match stream.push(token) {
            Ok(text) => output.stream(&text),
            Err(error) => trouble = Some(error),
        }
        if trouble.is_some() || interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let generated = generated.map_err(model_failure)?;
    if let Some(error) = trouble {
        return Err(error.into());
    }
    output.stream(&stream.finish().map_err(model_failure)?);
    let seconds = started.elapsed().as_secs_f64();
    let count = generated.tokens.len();
    output.say(format!("\n\n{count} tokens in {seconds:.2} s ({:.1} a second)", count as f64 / seconds.max(1e-9)));
    let text = tokenizer.decode(&generated.tokens, true).map_err(model_failure)?;
    output.result(&json!({
        "prompt": arguments.prompt, "text": text, "prompt_ids": prompt, "ids": generated.tokens, "seconds": seconds,
    }));
    match generated.finish {
        Finish::Receiver => Err(Failure::Interrupted("interrupted".into())),
        Finish::StopToken | Finish::Length => Ok(ExitCode::SUCCESS),
    }
}
