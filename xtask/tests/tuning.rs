//! `--tune`: kernels' choices from one run to the next.

mod common;

use std::fs;

use common::{World, assert_refused, result, run, text};

fn generate(world: &World, device: &str, more: &[&str]) -> std::process::Output {
    let model = world.model();
    let words = ["generate", "--model", model.to_str().unwrap(), "--prompt", "the cat", "--max-new-tokens", "2"];
    run(&[&words[..], &["--device", device, "--json"], more].concat())
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn what_was_measured_is_kept_on_wgsl() {
    let world = World::new();
    let (table, more) = (world.path("kernels.txt"), world.path("other.txt"));
    let tuned = |table: &std::path::Path| generate(&world, "gpu:0", &["--tune", table.to_str().unwrap()]);
    let first = tuned(&table);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(result(&first)["ids"], result(&generate(&world, "gpu:0", &[]))["ids"], "kernels mean the same");
    let kept = fs::read_to_string(&table).unwrap();
    assert!(kept.lines().count() > 4 && kept.lines().skip(2).all(|line| line.contains('\t')), "{kept}");
    assert!(tuned(&table).status.success());
    assert_eq!(fs::read_to_string(&table).unwrap(), kept, "nothing is measured twice");
    fs::write(&more, kept.replacen('\n', "\nanother card, driver 1\n", 1)).unwrap();
    assert_refused(&tuned(&more), &["other.txt", "measured on `another card, driver 1`", "delete this one"]);
}

#[test]
fn the_cpu_is_refused() {
    let refused = generate(&World::new(), "cpu", &["--tune", "kernels.txt"]);
    assert_refused(&refused, &["--tune kernels.txt", "only a GPU's kernels are measured"]);
}
