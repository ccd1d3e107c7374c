//! What a report says of its run.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tensor::Device;

use crate::Common;
use crate::report::About;

/// A run that has just begun.
pub fn about(device: &Device, common: &Common) -> About {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    About {
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION").into(),
        commit: commit(),
        date: date(since.as_secs()),
        device: device.to_string(),
        driver: device.adapter().map(|adapter| adapter.driver.clone()),
        threads: rayon::current_num_threads(),
        seed: common.seed,
        seconds: 0.0,
        complete: false,
    }
}

/// The commit of the sources, where they are a checkout and git is there; with a plus sign when files were changed.
fn commit() -> Option<String> {
    let git = |words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|files| !files.is_empty());
    Some(if is_changed { hash + "+" } else { hash })
}

/// Seconds since 1970 as year, month, day, hour and minute (UTC).
fn date(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02}", days + 1, minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dates = [0, 951_782_399, 951_782_400, 951_868_800, 1_767_225_599, 4_107_542_400].map(date);
        let expected =
            ["1970-01-01 00:00", "2000-02-28 23:59", "2000-02-29 00:00", "2000-03-01 00:00", "2025-12-31 23:59"];
        assert_eq!(dates[..5], expected);
        assert_eq!(dates[5], "2100-03-01 00:00");
    }
}
