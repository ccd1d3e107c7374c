//! `--config FILE.toml`: the same names as the flags. Values given on the command line win.

use std::ffi::OsString;
use std::path::Path;

use crate::failure::{Failure, Outcome};

/// Puts the settings of a `--config` file in front of the command's own flags, where later ones override them.
pub fn expand(arguments: Vec<OsString>) -> Outcome<Vec<OsString>> {
    let Some(position) = arguments.iter().position(|word| word == "--config") else {
        return Ok(arguments);
    };
    let Some(file) = arguments.get(position + 1) else {
        return Err(Failure::input("--config needs the path of a TOML file"));
    };
    let settings = read(Path::new(file))?;
    let mut expanded = arguments;
    expanded.drain(position..position + 2);
    // The command's name is the first word after the program's that is no flag.
    let command = expanded.iter().skip(1).position(|word| !word.to_string_lossy().starts_with('-'));
    let command = command.ok_or_else(|| Failure::input("--config needs a command before it, such as finetune"))? + 1;
    // A list given on the command line replaces the file's instead of adding to it.
    let given = |flag: &str| expanded.iter().any(|word| word == flag);
    let words: Vec<OsString> =
        settings.into_iter().filter(|words| !given(&words[0])).flatten().map(OsString::from).collect();
    expanded.splice(command + 1..command + 1, words);
    Ok(expanded)
}

/// Each setting as the words of its flag.
fn read(file: &Path) -> Outcome<Vec<Vec<String>>> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::input(format!("--config {name} cannot be read: {error}")))?;
    let table: toml::Table = text.parse().map_err(|error| Failure::input(format!("--config {name}: {error}")))?;
    let mut settings = Vec::new();
    for (key, value) in table {
        let flag = format!("--{}", key.replace('_', "-"));
        let wrong = || Failure::input(format!("--config {name}: `{key}` must be text, a number, true/false or a list"));
        let text = |value: &toml::Value| match value {
            toml::Value::String(text) => Some(text.clone()),
            toml::Value::Integer(number) => Some(number.to_string()),
            toml::Value::Float(number) => Some(number.to_string()),
            _ => None,
        };
        match &value {
            toml::Value::Boolean(true) => settings.push(vec![flag]),
            toml::Value::Boolean(false) => {}
            toml::Value::Array(items) => {
                let items: Option<Vec<String>> = items.iter().map(text).collect();
                settings.push(std::iter::once(flag).chain(items.ok_or_else(wrong)?).collect());
            }
            single => settings.push(vec![flag, text(single).ok_or_else(wrong)?]),
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(config: &str, words: &[&str]) -> Outcome<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, config).unwrap();
        let words = words.iter().map(|word| match *word {
            "FILE" => path.clone().into_os_string(),
            word => OsString::from(word),
        });
        Ok(expand(words.collect())?.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn settings_come_before_the_commands_own_flags() {
        let config = "rank = 4\ncheckpoint_activations = true\nresume = false\ntargets = [\"q_proj\", \"v_proj\"]\n";
        let words = expanded(config, &["xtask", "finetune", "--config", "FILE", "--lr", "0.1"]).unwrap();
        let expected = "xtask finetune --checkpoint-activations --rank 4 --targets q_proj v_proj --lr 0.1";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn the_command_line_wins() {
        let words = expanded("data = [\"a.txt\"]\nrank = 4\n", &["x", "finetune", "--config", "FILE", "--data", "b"]);
        assert_eq!(words.unwrap().join(" "), "x finetune --rank 4 --data b");
    }

    #[test]
    fn wrong_files_are_named() {
        let nested = expanded("[rank]\nq = 1\n", &["x", "finetune", "--config", "FILE"]).unwrap_err().to_string();
        assert!(nested.contains("run.toml") && nested.contains("`rank`"), "{nested}");
        assert!(expanded("rank =", &["x", "finetune", "--config", "FILE"]).is_err());
    }
}
