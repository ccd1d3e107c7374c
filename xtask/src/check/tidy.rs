//! Rules of the house that a program can check: file lengths, imports that point down, `unsafe` in one place,
//! complete operation folders, no machine-specific paths.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Lines a source file may have.
const MAX_LINES: usize = 500;

/// The crates from bottom to top; a crate may depend on those below its own level only.
const LEVELS: [&[&str]; 5] = [&["tensor"], &["autograd"], &["lora"], &["reflora", "relora", "models"], &["xtask"]];

/// The one file that may contain `unsafe`.
const UNSAFE_HOME: &str = "tensor/src/trusted.rs";

/// Files that must exist at the top.
const REQUIRED: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "LICENSE-MIT", "LICENSE-APACHE", ".ci/run", ".cargo/config.toml"];

/// Everything that breaks a rule, one line each.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for name in REQUIRED {
        if !root.join(name).is_file() {
            findings.push(format!("{name} is missing"));
        }
    }
    for (level, crates) in LEVELS.iter().enumerate() {
        for name in *crates {
            findings.extend(upward_dependencies(root, name, level)?);
            for file in files_below(&root.join(name))? {
                findings.extend(check_file(root, &file)?);
            }
        }
    }
    findings.extend(incomplete_operations(&root.join("tensor/src/ops"))?);
    Ok(findings)
}

fn upward_dependencies(root: &Path, name: &str, level: usize) -> anyhow::Result<Vec<String>> {
    let path = root.join(name).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let forbidden = LEVELS[level..].iter().flat_map(|crates| crates.iter()).filter(|other| **other != name);
    let depends = |other: &str| {
        text.lines().any(|line| line.strip_prefix(other).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])))
    };
    Ok(forbidden
        .filter(|other| depends(other))
        .map(|other| format!("{name}/Cargo.toml depends on {other}: imports only point down"))
        .collect())
}

fn check_file(root: &Path, file: &Path) -> anyhow::Result<Vec<String>> {
    let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().replace('\\', "/");
    let is_generated = name.contains("/snapshots/");
    let (is_rust, is_wgsl) = (name.ends_with(".rs"), name.ends_with(".wgsl"));
    if !(is_rust || is_wgsl) || is_generated {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(format!("{name} has {lines} lines; split it by idea (limit {MAX_LINES})"));
    }
    // Spelled in pieces, so that this file does not find itself.
    let unfinished = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME")];
    for (index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        let code = line.trim_start();
        if is_rust && name != UNSAFE_HOME && !code.starts_with("//") && code.contains(concat!("unsafe", " {")) {
            findings.push(format!("{place}: unsafe code belongs in {UNSAFE_HOME}"));
        }
        if unfinished.iter().any(|word| line.contains(word)) {
            findings.push(format!("{place}: unfinished work"));
        }
        if [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/tm", "p/")].iter().any(|path| line.contains(path)) {
            findings.push(format!("{place}: names a path of one machine"));
        }
    }
    Ok(findings)
}

/// Every operation folder has its API and its tests, and one with a CPU version of its own has a kernel as well; some
/// operations are compositions of others and have neither.
fn incomplete_operations(operations: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for entry in fs::read_dir(operations).with_context(|| format!("reading {}", operations.display()))? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        let files = files_below(&folder)?;
        let has = |wanted: &str| files.iter().any(|file| file.file_name().is_some_and(|name| name == wanted));
        let has_kernel = files.iter().any(|file| file.extension().is_some_and(|extension| extension == "wgsl"));
        for (present, what) in [
            (has("mod.rs"), "mod.rs"),
            (has("tests.rs") || folder.join("tests").is_dir(), "tests"),
            (has_kernel || !has("cpu.rs"), "WGSL kernel"),
        ] {
            if !present {
                findings.push(format!("{} has no {what}", folder.display()));
            }
        }
    }
    Ok(findings)
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            // What was built is nobody's writing.
            if path.file_name().is_some_and(|name| name == "target") {
                continue;
            }
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let crates = LEVELS.iter().flat_map(|names| names.iter());
        let manifests = crates.map(|name| (format!("{name}/Cargo.toml"), String::new()));
        let required = REQUIRED.iter().map(|name| (name.to_string(), String::new()));
        let given = files.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        for (name, text) in manifests.chain(required).chain(given) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(root.path().join("tensor/src/ops")).unwrap();
        root
    }

    #[test]
    fn a_tidy_repository_has_no_findings() {
        let root = repository(&[("lora/Cargo.toml", "tensor.workspace = true\nautograd.workspace = true\n")]);
        assert_eq!(check(root.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let long = "// line\n".repeat(MAX_LINES + 1);
        let block = concat!("fn f() { unsafe", " { g() } }");
        let root = repository(&[
            ("tensor/Cargo.toml", "lora.workspace = true\n"),
            ("lora/src/long.rs", &long),
            ("models/src/lib.rs", block),
            ("tensor/src/ops/sum/mod.rs", ""),
            ("tensor/src/ops/sum/cpu.rs", ""),
        ]);
        fs::remove_file(root.path().join("README.md")).unwrap();
        let findings = check(root.path()).unwrap().join("\n");
        for expected in [
            "README.md is missing",
            "tensor/Cargo.toml depends on lora",
            "lora/src/long.rs has 501 lines",
            "models/src/lib.rs:1: unsafe code belongs",
            "has no tests",
            "has no WGSL kernel",
        ] {
            assert!(findings.contains(expected), "{expected} not in:\n{findings}");
        }
    }
}
