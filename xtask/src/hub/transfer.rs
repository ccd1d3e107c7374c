//! One file from the hub: into a partial file beside its place, from where that ends, and renamed once it is whole.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ureq::Body;
use ureq::http::Response;

use super::download::Version;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, bytes};

/// How often a broken transfer is taken up again.
const ATTEMPTS: u32 = 4;

/// Bytes that are read before they are written.
const BLOCK: usize = 1 << 18;

/// Why a transfer ended before the file did.
enum Broken {
    /// Worth another attempt: the connection.
    Connection(String),
    /// Not so: the server's answer, or the disk.
    Final(Failure),
}

impl Version<'_> {
    /// Fetches one file unless it is there. What came of it stays when the connection breaks, for this run's next attempt
    /// and for the next run. Other programs that want the same file wait.
    pub fn get(&self, name: &str, size: Option<u64>, output: &Output) -> Outcome<()> {
        let target = self.directory.join(name);
        if target.is_file() {
            return Ok(());
        }
        let path = self.directory.join(format!("{name}.incomplete"));
        let failed = |error: std::io::Error| Failure::input(format!("the cache {}: {error}", path.display()));
        let mut partial = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        partial.lock().map_err(failed)?;
        if target.is_file() {
            return Ok(());
        }
        output.say(format!("fetching {}: {name} {}", self.repository, size.map_or(String::new(), bytes)));
        let mut attempt = 0;
        while let Err(broken) = self.append(name, size, &path, &mut partial, output) {
            let reason = match broken {
                Broken::Final(failure) => return Err(failure),
                Broken::Connection(reason) => reason,
            };
            attempt += 1;
            if attempt == ATTEMPTS {
                return Err(Failure::Work(anyhow::anyhow!(
                    "{}: {name} broke off {ATTEMPTS} times ({reason}); run it again to go on from there",
                    self.repository
                )));
            }
            std::thread::sleep(Duration::from_millis(200) * 4u32.pow(attempt - 1));
        }
        partial.sync_all().map_err(failed)?;
        std::fs::rename(&path, &target).map_err(failed)
    }

    /// Asks for what the partial file lacks, and appends it.
    fn append(
        &self,
        name: &str,
        size: Option<u64>,
        path: &Path,
        partial: &mut File,
        output: &Output,
    ) -> Result<(), Broken> {
        let disk = |error: std::io::Error| Broken::Final(Failure::input(format!("{}: {error}", path.display())));
        let mut there = partial.metadata().map_err(disk)?.len();
        if size.is_some_and(|size| there > size) {
            partial.set_len(0).map_err(disk)?;
            there = 0;
        }
        if size == Some(there) {
            return Ok(());
        }
        let mut request = self.agent.get(format!("{}/{name}", self.address));
        if let Some(token) = self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if there > 0 {
            request = request.header("Range", format!("bytes={there}-"));
        }
        let response = request.call().map_err(|error| Broken::Connection(error.to_string()))?;
        match response.status().as_u16() {
            206 if resumes_at(&response, there) => {}
            // The whole file, whatever was asked for.
            200 => {
                partial.set_len(0).map_err(disk)?;
                there = 0;
            }
            206 | 416 => {
                partial.set_len(0).map_err(disk)?;
                return Err(Broken::Connection("the server does not continue where it was asked to".into()));
            }
            status @ 500.. => return Err(Broken::Connection(format!("the server answers {status}"))),
            status => {
                let message = format!("{}: the server answers {status} for {name}", self.repository);
                return Err(Broken::Final(Failure::input(message)));
            }
        }
        let whole = size.or_else(|| Some(there + response.body().content_length()?));
        let length =
            copy(response, partial, there, whole, &progress(there, whole, output)).map_err(|error| match error {
                CopyError::Source(error) => Broken::Connection(error.to_string()),
                CopyError::Target(error) => disk(error),
            })?;
        match whole {
            Some(whole) if length > whole => {
                partial.set_len(0).map_err(disk)?;
                let message = format!("{}: {name} is longer than the {whole} bytes announced", self.repository);
                Err(Broken::Final(Failure::input(message)))
            }
            Some(whole) if length < whole => Err(Broken::Connection(format!("{length} of {whole} bytes came"))),
            _ => Ok(()),
        }
    }
}

/// Whether an answer of a part begins where the partial file ends.
fn resumes_at(response: &Response<Body>, position: u64) -> bool {
    let range = response.headers().get("Content-Range").and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    start == Some(position)
}

enum CopyError {
    Source(std::io::Error),
    Target(std::io::Error),
}

/// Appends an answer to a file of `length` bytes, and stops soon after `whole`; gives the new length.
fn copy(
    response: Response<Body>,
    partial: &mut File,
    mut length: u64,
    whole: Option<u64>,
    progress: &ProgressBar,
) -> Result<u64, CopyError> {
    let mut source = response.into_body().into_reader();
    let mut block = vec![0; BLOCK];
    loop {
        let count = source.read(&mut block).map_err(CopyError::Source)?;
        if count == 0 {
            return Ok(length);
        }
        length += count as u64;
        if whole.is_some_and(|whole| length > whole) {
            return Ok(length);
        }
        partial.write_all(&block[..count]).map_err(CopyError::Target)?;
        progress.set_position(length);
    }
}

fn progress(there: u64, whole: Option<u64>, output: &Output) -> ProgressBar {
    let target = if output.is_interactive() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(whole, target);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.set_position(there);
    bar
}
