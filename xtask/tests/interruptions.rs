//! Runs that are ended at any moment, or whose disk fails them, go on as if nothing had happened.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{World, assert_refused, result, text};

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    /// Between 0 and 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A run of 40 steps that is measured, saved and evaluated often, and what it ends with when nobody disturbs it.
struct Undisturbed {
    world: World,
    results: [Vec<u8>; 2],
    duration: Duration,
}

impl Undisturbed {
    fn new() -> Self {
        let world = World::new();
        let mut run = Undisturbed { world, results: [Vec::new(), Vec::new()], duration: Duration::ZERO };
        let (out, started) = (run.world.path("undisturbed"), Instant::now());
        let mut child = run.start(&out);
        let status = child.wait().unwrap();
        assert!(status.success(), "{}", run.said());
        (run.results, run.duration) = (Self::results(&out), started.elapsed());
        run
    }

    /// The last adapter and the best one.
    fn results(out: &Path) -> [Vec<u8>; 2] {
        ["", "best"].map(|part| fs::read(out.join(part).join("adapter_model.safetensors")).unwrap())
    }

    /// Begins the run, or goes on with it.
    fn start(&self, out: &Path) -> Child {
        let said = File::create(self.world.path("said")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("finetune").arg("--model").arg(self.world.model()).arg("--data").arg(self.world.text());
        command.args(["--steps", "40", "--batch", "2", "--seq", "32", "--lr", "0.02", "--method", "reflora-s"]);
        command.args(["--method-warmup", "5", "--dropout", "0.1", "--save-every", "3", "--eval-every", "7"]);
        command.args(["--device", "cpu", "--json", "--resume", "--out"]).arg(out);
        command.stdout(Stdio::null()).stderr(said).spawn().unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.world.path("said")).unwrap()
    }

    /// Ends the run after a random time, unless it comes to its own end before that.
    fn start_and_kill(&self, out: &Path, random: &mut Random) -> Option<ExitStatus> {
        let mut child = self.start(out);
        sleep(self.duration.mul_f64(random.next()));
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    fn assert_same_results(&self, out: &Path) {
        assert!(Self::results(out) == self.results, "another adapter than that of the undisturbed run");
        let hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
        let leftovers: Vec<PathBuf> =
            fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()).filter(hidden).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
}

/// Runs are killed and resumed until so many were killed; each must end with the undisturbed run's adapters.
fn kill(kills: usize) {
    let run = Undisturbed::new();
    let (mut random, mut killed, mut runs) = (Random(11), 0, 0);
    while killed < kills {
        let out = run.world.path("out");
        loop {
            let status = match killed < kills {
                true => run.start_and_kill(&out, &mut random),
                false => Some(run.start(&out).wait().unwrap()),
            };
            let Some(status) = status else {
                killed += 1;
                continue;
            };
            assert!(status.success(), "after {killed} kills: {}", run.said());
            break;
        }
        run.assert_same_results(&out);
        fs::remove_dir_all(out).unwrap();
        runs += 1;
    }
    println!("{killed} kills in {runs} runs of {:?}; every run ended with the same adapters", run.duration);
}

#[test]
fn killed_runs_go_on_bit_for_bit() {
    kill(8);
}

#[test]
#[ignore = "takes some minutes; docs/checks/README.md has its result"]
fn two_hundred_killed_runs_go_on_bit_for_bit() {
    kill(200);
}

/// A file system in memory, mounted for the test.
#[cfg(target_os = "linux")]
struct SmallDisk(PathBuf);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self::command("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &path);
        SmallDisk(path)
    }

    fn remount(&self, options: &str) {
        Self::command("mount", &["-o", &format!("remount,{options}")], &self.0);
    }

    fn command(program: &str, words: &[&str], path: &Path) {
        let output = Command::new(program).args(words).arg(path).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that stays is seen in the next run's refusal.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk fills up, or becomes read-only, at a random moment of each attempt.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "mounts a file system, which needs root; docs/checks/README.md has its result"]
fn runs_whose_disk_fails_go_on_bit_for_bit() {
    let run = Undisturbed::new();
    let disk = SmallDisk::mount(run.world.path("disk"));
    let (out, ballast) = (disk.0.join("out"), disk.0.join("ballast"));
    let (mut random, mut failures, mut runs) = (Random(5), 0, 0);
    while failures < 50 {
        let mut child = run.start(&out);
        sleep(run.duration.mul_f64(random.next()));
        let full = random.next() < 0.7;
        if full {
            // Leaves a random little room, so that writing fails in the middle of a file, too.
            let _ = fs::write(&ballast, vec![1; (4 << 20) - (random.next() * 3e5) as usize]);
        } else {
            // Refused while a file is open for writing; then this attempt goes undisturbed.
            let _ = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).output();
        }
        let status = child.wait().unwrap();
        disk.remount("rw");
        let _ = fs::remove_file(&ballast);
        if !status.success() {
            let said = run.said();
            let expected = ["No space left", "Read-only file system"].iter().any(|reason| said.contains(reason));
            assert!(expected && !said.contains("panicked"), "{said}");
            failures += 1;
            continue;
        }
        run.assert_same_results(&out);
        fs::remove_dir_all(&out).unwrap();
        runs += 1;
    }
    println!("{failures} failures of the disk in {runs} finished runs, which ended with the same adapters");
}

#[test]
#[cfg(unix)]
fn an_interrupt_saves_and_the_run_goes_on() {
    let run = Undisturbed::new();
    let out = run.world.path("out");
    let mut child = run.start(&out);
    let metrics = out.join("metrics.jsonl");
    while !fs::read_to_string(&metrics).is_ok_and(|lines| lines.lines().count() > 0) {
        assert!(child.try_wait().unwrap().is_none(), "{}", run.said());
        sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130), "{}", run.said());
    assert!(run.said().contains("--resume goes on"), "{}", run.said());
    assert!(run.start(&out).wait().unwrap().success());
    run.assert_same_results(&out);
}

#[test]
fn only_the_same_run_is_resumed() {
    let world = World::new();
    let saving = ["--save-every", "5"];
    assert!(world.finetune("cpu", "out", &saving).status.success());
    let resumed = |more: &[&str]| world.finetune("cpu", "out", &[&saving[..], &["--resume"], more].concat());
    assert_refused(&resumed(&["--lr", "0.01"]), &["checkpoint-10", "the run had lr 0.02", "not 0.01", "same settings"]);
    assert_refused(&resumed(&["--steps", "20"]), &["the run had steps 12, not 20"]);
    assert_refused(&resumed(&["--seed", "3"]), &["seed 0"]);
    assert!(resumed(&["--eval-every", "2"]).status.success(), "what does not change the adapter may change");
    let other = world.path("other.txt");
    fs::write(&other, "the dog sat on the log. ".repeat(120)).unwrap();
    assert_refused(&resumed(&["--data", other.to_str().unwrap()]), &["the run had other data"]);
}

#[test]
fn a_run_under_way_is_not_begun_again_unasked() {
    let world = World::new();
    let saving = ["--save-every", "5"];
    assert!(world.finetune("cpu", "out", &saving).status.success());
    let out = world.path("out");
    fs::remove_file(out.join("adapter_model.safetensors")).unwrap();
    assert_refused(&world.finetune("cpu", "out", &saving), &["checkpoint-10 is already there", "--resume"]);
    let again = world.finetune("cpu", "out", &["--overwrite", "--steps", "3"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(result(&again)["steps"], 3);
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !names.iter().any(|name| name.to_string_lossy().contains("checkpoint")),
        "the other run's are gone: {names:?}"
    );
    let more = world.finetune("cpu", "out", &["--resume"]);
    assert_refused(&more, &["adapter_model.safetensors but no checkpoint"]);
}
