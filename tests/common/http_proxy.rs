//! A proxy in front of ClickHouse that does to INSERTs what networks do: loses a request or its answer, answers for the
//! server, keeps a request back and lets it through when its sender is long gone.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::World;

/// What happens to one INSERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It passes.
    Pass,
    /// The connection is cut before the server sees anything.
    CutBefore,
    /// The server carries it out; the connection is cut instead of its answer.
    CutAfter,
    /// The server carries it out; the sender is told 502.
    BadGateway,
    /// The server carries it out; its answer never comes.
    Swallow,
    /// It is kept back until it is released; its sender hears nothing.
    Hold,
    /// The server never sees it: the sender is told 200 with this page.
    Page(&'static str),
    /// The server never sees it: the sender is told that the table has too many parts.
    TooManyParts,
    /// The server never sees it: the sender is told 503, and to come again in so many seconds.
    Busy(u32),
    /// The server carries it out; its answer lacks this header.
    StripHeader(&'static str),
    /// The server carries it out; its answer names another query.
    OtherId,
}

#[derive(Default)]
struct State {
    plan: VecDeque<Act>,
    inserts: usize,
    held: usize,
    landed: usize,
    is_released: bool,
    /// What is told otherwise than the server does: its text, and the other one.
    retold: Vec<(String, String)>,
    /// Questions that the server never sees, by a text in them, and what is answered.
    answers: Vec<(String, String)>,
    /// Questions that the server never sees, by a text in them, and that are answered with an empty page.
    unanswered: Vec<String>,
    /// Questions of whose answers only a part arrives, by a text in them, and how large a part, in percent.
    cut: Option<(String, usize)>,
    /// Settings that every request gets, as from a user's profile: those that it brings itself come later, and count.
    profile: String,
    /// Whether settings are dropped on the way, as chproxy does.
    drops_settings: bool,
    /// The largest body that passes; 0 is any.
    largest: usize,
    /// The first lines of all INSERTs, settings included.
    seen: Vec<String>,
}

/// The proxy; its threads end with the test's process.
#[derive(Clone)]
pub struct HttpProxy {
    address: SocketAddr,
    upstream: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl HttpProxy {
    /// In front of `url`: the first INSERTs meet the acts of `plan`, later ones pass.
    pub fn before(url: &str, plan: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { plan: plan.iter().copied().collect(), ..State::default() };
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            upstream: url.rsplit('@').next().unwrap().to_owned(),
            shared: Arc::new((Mutex::new(state), Condvar::new())),
        };
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let proxy = accepting.clone();
                std::thread::spawn(move || proxy.serve(&client));
            }
        });
        proxy
    }

    /// The configuration's line that leads through the proxy.
    pub fn setting(&self) -> String {
        format!("url = \"http://app:app@{}\"", self.address)
    }

    /// Tells `other` wherever the server's answers say `text`.
    pub fn retell(&self, text: &str, other: &str) {
        self.shared.0.lock().unwrap().retold.push((text.to_owned(), other.to_owned()));
    }

    /// Answers questions that contain `text` with these rows, in JSONEachRow; the server does not see them.
    pub fn answer(&self, text: &str, rows: &str) {
        self.shared.0.lock().unwrap().answers.push((text.to_owned(), rows.to_owned()));
    }

    /// Answers questions that contain `text` with an empty page of its own; the server does not see them.
    pub fn answer_empty(&self, text: &str) {
        self.shared.0.lock().unwrap().unanswered.push(text.to_owned());
    }

    /// From now on passes on only so many percent of the answers to questions that contain `text`, with the length of that part.
    pub fn cut_answers(&self, text: &str, percent: usize) {
        self.shared.0.lock().unwrap().cut = Some((text.to_owned(), percent));
    }

    /// Gives every request these settings, as the user's profile would: `a=1&b=2`.
    pub fn set_profile(&self, settings: &str) {
        settings.clone_into(&mut self.shared.0.lock().unwrap().profile);
    }

    /// Drops all settings but those that chproxy itself needs, from now on.
    pub fn drop_settings(&self) {
        self.shared.0.lock().unwrap().drops_settings = true;
    }

    /// Answers 413 to larger bodies from now on, as nginx does.
    pub fn limit_bodies(&self, largest: usize) {
        self.shared.0.lock().unwrap().largest = largest;
    }

    /// The settings of the INSERTs that came, as they stand in the URL.
    pub fn seen(&self) -> Vec<String> {
        self.shared.0.lock().unwrap().seen.clone()
    }

    /// How many INSERTs came.
    pub fn inserts(&self) -> usize {
        self.shared.0.lock().unwrap().inserts
    }

    /// Waits until an INSERT is held back.
    pub fn wait_for_held(&self) {
        let (state, changed) = &*self.shared;
        let waited =
            changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(20), |s| s.held == 0).unwrap();
        assert!(waited.0.held > 0, "no INSERT came to be held back");
    }

    /// Starts the second leg, and kills it when an INSERT of it is held back: that arrives at [`release`](Self::release).
    pub fn kill_with_held(&self, world: &World) {
        let mut run = world.start(&["consume"]);
        self.wait_for_held();
        run.kill().unwrap();
        run.wait().unwrap();
    }

    /// Lets the held INSERTs through, and waits for the server's answers.
    pub fn release(&self) {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        state.is_released = true;
        changed.notify_all();
        let (state, _) = changed.wait_timeout_while(state, Duration::from_secs(20), |s| s.landed < s.held).unwrap();
        assert_eq!(state.landed, state.held, "a held INSERT was not answered");
    }

    fn serve(&self, client: &TcpStream) {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            let is_insert = head.starts_with("POST /?") && head.contains("query=INSERT");
            let act = if is_insert { self.next(&head) } else { Act::Pass };
            if act == Act::CutBefore {
                // What was not read makes the kernel answer with a reset.
                return;
            }
            let mut request = self.with_profile(&head).into_bytes();
            read_body(&mut reader, &head, &mut request);
            if act == Act::Hold {
                return self.hold(&request);
            }
            if let Some(answer) = self.own_answer(act, &request) {
                let mut client = client;
                if client.write_all(answer.as_bytes()).is_err() {
                    return;
                }
                continue;
            }
            let Some(answer) = self.forward(&request) else { return };
            let mut client = client;
            let answered = match act {
                Act::CutAfter => return,
                Act::Swallow => return std::thread::sleep(Duration::from_secs(60)),
                Act::BadGateway => client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad"),
                Act::StripHeader(name) => client.write_all(&without_header(&answer, name)),
                Act::OtherId => {
                    let mut other = without_header(&answer, "X-ClickHouse-Query-Id");
                    let at = String::from_utf8_lossy(&other).find("\r\n").unwrap() + 2;
                    other.splice(at..at, *b"X-ClickHouse-Query-Id: another\r\n");
                    client.write_all(&other)
                }
                _ => client.write_all(&answer),
            };
            if answered.is_err() {
                return;
            }
        }
    }

    /// What the proxy answers by itself.
    fn own_answer(&self, act: Act, request: &[u8]) -> Option<String> {
        let (largest, answers, unanswered) = {
            let state = self.shared.0.lock().unwrap();
            (state.largest, state.answers.clone(), state.unanswered.clone())
        };
        let answer = |status: &str, body: &str| {
            Some(format!("HTTP/1.1 {status}\r\nServer: nginx\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        };
        match act {
            Act::Page(page) => return answer("200 OK", page),
            Act::TooManyParts => {
                let status = "500 Internal Server Error\r\nX-ClickHouse-Exception-Code: 252";
                return answer(status, "Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS)");
            }
            Act::Busy(seconds) => {
                return answer(&format!("503 Service Unavailable\r\nRetry-After: {seconds}"), "busy");
            }
            _ => {}
        }
        let text = String::from_utf8_lossy(request);
        if unanswered.iter().any(|part| text.contains(part.as_str())) {
            return answer("200 OK", "");
        }
        if let Some((_, rows)) = answers.iter().find(|(part, _)| text.contains(part.as_str())) {
            return answer("200 OK\r\nX-ClickHouse-Server-Display-Name: proxy", rows);
        }
        let is_insert = text.starts_with("POST /?") && text.contains("query=INSERT");
        let head = request.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        let is_larger = largest > 0 && is_insert && request.len() - head > largest;
        if is_larger { answer("413 Request Entity Too Large", "<html>413</html>") } else { None }
    }

    fn with_profile(&self, head: &str) -> String {
        let (profile, drops) = {
            let state = self.shared.0.lock().unwrap();
            (state.profile.clone(), state.drops_settings)
        };
        if drops {
            let (path, rest) = head.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).unwrap();
            let own = path.split_once('?').map_or("", |(_, own)| own);
            let kept: Vec<&str> = own.split('&').filter(|pair| pair.starts_with("query=")).collect();
            return format!("POST /?{} {rest}", kept.join("&"));
        }
        if profile.is_empty() {
            return head.to_owned();
        }
        let (path, rest) = head.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).unwrap();
        let own = path.split_once('?').map_or("", |(_, own)| own);
        format!("POST /?{profile}&{own} {rest}")
    }

    fn next(&self, head: &str) -> Act {
        let mut state = self.shared.0.lock().unwrap();
        state.inserts += 1;
        state.seen.push(head.lines().next().unwrap_or_default().to_owned());
        state.plan.pop_front().unwrap_or(Act::Pass)
    }

    fn hold(&self, request: &[u8]) {
        let (state, changed) = &*self.shared;
        let mut guard = state.lock().unwrap();
        guard.held += 1;
        changed.notify_all();
        drop(changed.wait_while(guard, |state| !state.is_released).unwrap());
        let answer = self.forward(request);
        let answer = String::from_utf8_lossy(answer.as_deref().unwrap_or_default()).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "the late INSERT: {answer}");
        state.lock().unwrap().landed += 1;
        changed.notify_all();
    }

    fn forward(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut server = TcpStream::connect(&self.upstream).ok()?;
        server.write_all(request).ok()?;
        let mut reader = BufReader::new(server);
        let head = read_head(&mut reader)?;
        let mut answer = head.clone().into_bytes();
        read_body(&mut reader, &head, &mut answer);
        let (retold, cut) = {
            let state = self.shared.0.lock().unwrap();
            (state.retold.clone(), state.cut.clone())
        };
        let body = &answer[head.len()..];
        let question = String::from_utf8_lossy(request);
        if let Some((_, percent)) = cut.filter(|(text, _)| question.contains(text.as_str())) {
            return Some(with_body(&head, &body[..body.len() * percent / 100]));
        }
        if retold.is_empty() { Some(answer) } else { Some(retell(&head, body, &retold)) }
    }
}

/// The answer without one of its headers.
fn without_header(answer: &[u8], name: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let start = text.to_ascii_lowercase().find(&name.to_ascii_lowercase());
    let Some(start) = start else { return text.into_bytes() };
    let end = start + text[start..].find("\r\n").unwrap() + 2;
    format!("{}{}", &text[..start], &text[end..]).into_bytes()
}

/// The answer with another body, of another length.
fn retell(head: &str, body: &[u8], retold: &[(String, String)]) -> Vec<u8> {
    let mut body = String::from_utf8_lossy(body).into_owned();
    for (text, other) in retold {
        body = body.replace(text, other);
    }
    with_body(head, body.as_bytes())
}

fn with_body(head: &str, body: &[u8]) -> Vec<u8> {
    assert!(
        head.to_ascii_lowercase().contains("content-length: "),
        "only answers of a known length are changed: {head}"
    );
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length: "));
    let head: Vec<&str> = lines.collect();
    let mut answer = format!("{}\r\nContent-Length: {}\r\n\r\n", head.join("\r\n"), body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// Appends the body as it came, chunked or not.
fn read_body(reader: &mut impl BufRead, head: &str, out: &mut Vec<u8>) {
    let head = head.to_ascii_lowercase();
    let mut take = |count: u64, reader: &mut dyn BufRead| {
        let _ = reader.take(count).read_to_end(out);
    };
    if let Some(length) = head.split("content-length: ").nth(1) {
        take(length.split("\r\n").next().unwrap().parse().unwrap(), reader);
    } else if head.contains("transfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            take(line.len() as u64, &mut line.as_bytes());
            take(size + 2, reader);
            if size == 0 {
                return;
            }
        }
    }
}
