//! `devices`: what there is to compute on.

use std::process::ExitCode;

use serde_json::json;
use tensor::{Device, DeviceRequest, list_adapters};

use crate::Common;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, bytes};

pub fn run(common: &Common, output: &Output) -> Outcome<ExitCode> {
    let adapters = list_adapters();
    let threads = rayon::current_num_threads();
    let best = adapters.iter().position(|adapter| !adapter.is_software());
    // `devices --device X` checks that X can be opened.
    if common.device != DeviceRequest::Auto {
        Device::open(&common.device).map_err(|error| Failure::input(format!("--device {}: {error}", common.device)))?;
    }
    let mark = |chosen: bool| if chosen { "  <- auto" } else { "" };
    output.say(format!("cpu: native Rust, {threads} threads{}", mark(best.is_none())));
    for (index, adapter) in adapters.iter().enumerate() {
        output.say(format!("gpu:{index}: {} ({}){}", adapter.name, adapter.kind, mark(best == Some(index))));
        output.say(format!("  {}, driver {}", adapter.backend, adapter.driver));
        output.say(format!("  features: {}", adapter.features.join(", ")));
        output.say(format!(
            "  memory {}, largest buffer {}, largest tensor {}, workgroup memory {}, {} invocations a workgroup",
            adapter.memory_bytes.map_or_else(|| "unknown".into(), bytes),
            bytes(adapter.max_buffer_bytes),
            bytes(adapter.max_binding_bytes),
            bytes(u64::from(adapter.workgroup_bytes)),
            adapter.workgroup_invocations
        ));
    }
    if adapters.iter().all(|adapter| adapter.is_software()) {
        output.say("no real GPU found; software adapters run only when asked for by name or number");
    }
    let described: Vec<_> = adapters
        .iter()
        .enumerate()
        .map(|(index, adapter)| {
            json!({
                "device": format!("gpu:{index}"), "name": adapter.name, "kind": adapter.kind,
                "backend": adapter.backend, "driver": adapter.driver, "features": adapter.features,
                "memory_bytes": adapter.memory_bytes,
                "max_buffer_bytes": adapter.max_buffer_bytes, "max_binding_bytes": adapter.max_binding_bytes,
                "workgroup_bytes": adapter.workgroup_bytes, "workgroup_invocations": adapter.workgroup_invocations,
            })
        })
        .collect();
    let auto = best.map_or("cpu".to_string(), |index| format!("gpu:{index}"));
    output.result(&json!({ "auto": auto, "cpu_threads": threads, "adapters": described }));
    Ok(ExitCode::SUCCESS)
}
