//! A hub on the loopback interface: files by their paths, parts of them where asked for, and whatever goes wrong.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does with a path.
#[derive(Clone)]
pub enum Answer {
    File(Vec<u8>),
    /// The connection ends after so many bytes the first time; later the whole file, or the part that is asked for.
    Cut(Vec<u8>, usize),
    /// Always the whole file, whatever part is asked for, and cut the first time.
    CutWhole(Vec<u8>, usize),
    Redirect(String),
    Status(u16),
}

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// Ends with the program that made it.
pub struct Server {
    pub port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answers: impl IntoIterator<Item = (String, Answer)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (requests.clone(), Arc::new(answers.into_iter().collect::<HashMap<_, _>>()));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answers) = (seen.clone(), answers.clone());
                // A client that goes away is its own affair.
                thread::spawn(move || drop(serve(&stream, &answers, &seen)));
            }
        });
        Server { port, requests }
    }

    /// The requests since this was asked last.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// The hub's list of a model's files.
pub fn listing(files: &[(&str, usize)]) -> Answer {
    let file = |(name, size): &(&str, usize)| serde_json::json!({ "rfilename": name, "size": size });
    let files: Vec<_> = files.iter().map(file).collect();
    Answer::File(serde_json::json!({ "sha": COMMIT, "siblings": files }).to_string().into_bytes())
}

fn serve(stream: &TcpStream, answers: &HashMap<String, Answer>, seen: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut request = Request { path: path.clone(), range: None, token: None };
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.trim().into()),
            "authorization" => request.token = Some(value.trim().into()),
            _ => {}
        }
    }
    let first_time = !seen.lock().unwrap().iter().any(|earlier| earlier.path == path);
    seen.lock().unwrap().push(request.clone());
    let range =
        request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match answers.get(&path) {
        None => head(stream, 404, &[]),
        Some(Answer::Status(status)) => head(stream, *status, &[]),
        Some(Answer::Redirect(target)) => head(stream, 302, &[("Location", target.clone())]),
        Some(Answer::File(file)) => body(stream, file, range, file.len()),
        Some(Answer::Cut(file, cut)) => body(stream, file, range, if first_time { *cut } else { file.len() }),
        Some(Answer::CutWhole(file, cut)) => body(stream, file, None, if first_time { *cut } else { file.len() }),
    }
}

fn head(mut stream: &TcpStream, status: u16, fields: &[(&str, String)]) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    if !fields.iter().any(|(name, _)| *name == "Content-Length") {
        text += "Content-Length: 0\r\n";
    }
    for (name, value) in fields {
        text += &format!("{name}: {value}\r\n");
    }
    write!(stream, "{text}\r\n")
}

/// The file from `range` on, of which the bytes before `end` are sent.
fn body(mut stream: &TcpStream, file: &[u8], range: Option<usize>, end: usize) -> std::io::Result<()> {
    let start = range.unwrap_or(0).min(file.len());
    let mut fields = vec![("Content-Length", (file.len() - start).to_string())];
    if range.is_some() {
        fields.push(("Content-Range", format!("bytes {start}-{}/{}", file.len() - 1, file.len())));
    }
    head(stream, if range.is_some() { 206 } else { 200 }, &fields)?;
    stream.write_all(&file[start..end.max(start)])
}
