//! ClickHouse's HTTP interface through ureq: one request, one answer, no retries and no redirects of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::answer::{Answer, Exception, Reply, UNKNOWN_SETTING};
use crate::config::{ClickHouseUrl, Config, Credential, Secret};
use crate::error::{Error, ExitCode, Result};
use crate::page;
use crate::run_id::RunId;

/// The most of an answer that is read. The largest, what the target holds of one batch, stays far below.
const MAX_ANSWER: u64 = 256 << 20;

/// Pinned on every question, whatever the user's profile says: what would change an answer or its shape, refuse it, or leave some of
/// it out. Every server knows these names.
pub(super) const PINNED: &[(&str, &str)] = &[
    // An exception in the middle of an answer must not pass for its end.
    ("wait_end_of_query", "1"),
    ("output_format_json_array_of_rows", "0"),
    ("output_format_json_named_tuples_as_objects", "0"),
    ("output_format_tsv_crlf_end_of_line", "0"),
    ("empty_result_for_aggregation_by_empty_set", "0"),
    // It makes a Nullable of each aggregate, which RowBinary shows by one more byte.
    ("aggregate_functions_null_for_empty", "0"),
    ("cast_keep_nullable", "0"),
    ("join_use_nulls", "0"),
    ("transform_null_in", "0"),
    ("enable_positional_arguments", "1"),
    ("prefer_column_name_to_alias", "0"),
    ("extremes", "0"),
    ("force_primary_key", "0"),
    ("force_index_by_date", "0"),
    ("max_rows_to_read", "0"),
    ("max_result_rows", "0"),
    ("max_result_bytes", "0"),
    ("read_overflow_mode", "throw"),
    ("result_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("limit", "0"),
    ("offset", "0"),
    // A question may list some thousands of keys.
    ("max_query_size", "268435456"),
    ("default_format", "TabSeparated"),
];

/// Pinned likewise, for servers that know the names: of each version that has brought some, the newest first.
pub(super) const PINNED_BY_NEWER: [&[(&str, &str)]; 2] = [
    // 26: a profile may wrap every question in another one, or choose another format than the statement does.
    &[
        ("select", ""),
        ("filter", ""),
        ("order", ""),
        ("sort", ""),
        ("page", "0"),
        ("format", ""),
        ("input_format", ""),
        ("output_format", ""),
        ("database", ""),
        ("dialect", "clickhouse"),
    ],
    // 23.1: an old answer, or the refusal to keep one.
    &[("use_query_cache", "0")],
];

/// A client of one server: of several in the URL, the first that answers.
#[derive(Clone, Debug)]
pub struct Http {
    agent: Agent,
    url: ClickHouseUrl,
    /// Kept once it has answered: another replica may not have yet what this one has confirmed.
    answered: Arc<OnceLock<String>>,
    /// How many kinds of settings that server does not know, as far as it has shown: of [`PINNED_BY_NEWER`], then [`PINNED`]. Of the
    /// newest it has to say that it knows them: an unknown name is an error in its log.
    unknown: Arc<AtomicUsize>,
    user: String,
    password: Arc<Password>,
    limit: Duration,
}

/// What the requests show the server. It may be a token that lives for minutes, so it is taken anew now and then.
#[derive(Debug)]
struct Password {
    kept: Credential,
    taken: Mutex<Option<(Instant, Secret)>>,
}

/// How long a password counts as new: every token lives longer.
const NEW: Duration = Duration::from_secs(60);

impl Password {
    fn take(&self) -> Result<Secret> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, secret)) = &*taken
            && when.elapsed() < NEW
        {
            return Ok(secret.clone());
        }
        let secret = self.kept.take()?;
        *taken = Some((Instant::now(), secret.clone()));
        Ok(secret)
    }
}

impl Http {
    /// Makes a client; no connection is made.
    ///
    /// # Errors
    /// 78 if the certificates cannot be read.
    pub fn new(config: &Config) -> Result<Self> {
        let clickhouse = &config.clickhouse;
        let mut tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier);
        if let Some(file) = &clickhouse.ca_cert {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(read_certificates(file)?)));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(config.timeouts.connect))
            .timeout_global(Some(config.timeouts.clickhouse))
            .tls_config(tls.build())
            .user_agent(concat!("pg2ch/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            url: clickhouse.url.clone(),
            answered: Arc::default(),
            unknown: Arc::new(AtomicUsize::new(1)),
            user: clickhouse.user.clone(),
            password: Arc::new(Password { kept: clickhouse.password.clone(), taken: Mutex::new(None) }),
            limit: config.timeouts.clickhouse,
        })
    }

    /// The client for another run: its connections are kept; which of several servers answers is found out anew.
    pub(crate) fn for_another_run(self) -> Self {
        Self { answered: Arc::default(), ..self }
    }

    /// How long a request may take.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// The server's address; of several the one that has answered, or all.
    pub(crate) fn address(&self) -> String {
        self.answered.get().cloned().unwrap_or_else(|| self.url.to_string())
    }

    /// How many servers the URL names.
    pub(crate) fn servers(&self) -> usize {
        self.url.hosts.len()
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The client with the newest settings pinned from its first statement on, which a server refuses that does not know them.
    pub(crate) fn pinning_newest(self) -> Self {
        self.pin_newest();
        self
    }

    /// Pins the newest settings, too, from now on; whether they were not.
    pub(super) fn pin_newest(&self) -> bool {
        self.unknown.swap(0, Ordering::Relaxed) > 0
    }

    /// The same if the server knows them; `settings` are those that it knows.
    pub(super) fn pin_known(&self, settings: &[String]) {
        let [newest, ..] = PINNED_BY_NEWER;
        if newest.iter().all(|(name, _)| settings.iter().any(|known| known == name)) {
            self.pin_newest();
        }
    }

    /// Sends a statement under the pinned settings, and under some of its own. A server that is too old for some of them gets it
    /// without those, even one that is too old for pg2ch: `check` is to find that out.
    ///
    /// # Errors
    /// A request without an answer.
    pub fn ask(&self, sql: &str, settings: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
        let comment = run_comment();
        let comment = [("log_comment", comment.as_str())];
        let kinds = PINNED_BY_NEWER.into_iter().chain([PINNED, &comment]);
        loop {
            let unknown = self.unknown.load(Ordering::Relaxed);
            let pinned: Vec<(&str, &str)> = kinds.clone().skip(unknown).flatten().copied().collect();
            match self.send(sql, &[&pinned, settings].concat(), &[])? {
                Answer::Exception(exception) if exception.code == UNKNOWN_SETTING && !pinned.is_empty() => {
                    self.unknown.store(unknown + 1, Ordering::Relaxed);
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Whether a question's answer is this one word; a refusal, or none, is another.
    pub(crate) fn says(&self, question: &str, word: &str) -> bool {
        matches!(self.ask(question, &[]), Ok(Answer::Ok(answer)) if answer.trim_ascii() == word.as_bytes())
    }

    /// Sends a statement, its data, and settings as URL parameters. `Err` is a request without an answer: it may or may
    /// not have been carried out.
    ///
    /// # Errors
    /// A request without an answer.
    pub fn send(&self, sql: &str, settings: &[(&str, &str)], data: &[u8]) -> Result<Answer, ureq::Error> {
        let reply = self.exchange(sql, settings, data)?;
        // A proxy's empty page with status 200 would be taken for "no rows".
        let is_answer = reply.is_clickhouse || reply.query_id.is_some();
        if reply.status == 200 && reply.code.is_none() && is_answer && page::title(&reply.body).is_none() {
            return Ok(Answer::Ok(reply.body));
        }
        Ok(Answer::Exception(Exception::of(&reply)))
    }

    /// Sends a statement as [`send`](Self::send) does, and gives back all that was answered.
    pub(super) fn exchange(&self, sql: &str, settings: &[(&str, &str)], data: &[u8]) -> Result<Reply, ureq::Error> {
        if let Some(url) = self.answered.get() {
            return self.request(url, sql, settings, data);
        }
        let mut urls = self.url.each().peekable();
        loop {
            let url = urls.next().unwrap_or_default();
            match self.request(&url, sql, settings, data) {
                Ok(reply) => {
                    self.answered.get_or_init(|| url);
                    return Ok(reply);
                }
                // Rows may have arrived although no answer came: they are not taken elsewhere.
                Err(error) if data.is_empty() && urls.peek().is_some() => {
                    log::warn!("ClickHouse at {url} does not answer, trying the next server: {error}");
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn request(&self, url: &str, sql: &str, settings: &[(&str, &str)], data: &[u8]) -> Result<Reply, ureq::Error> {
        let password = self.password.take().map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut request = self
            .agent
            .post(format!("{url}/"))
            .header("X-ClickHouse-User", &self.user)
            .header("X-ClickHouse-Key", password.reveal())
            .content_type("application/octet-stream");
        for (name, value) in settings {
            request = request.query(*name, *value);
        }
        // A statement without data goes into the body, where no proxy limits its length.
        let mut response =
            if data.is_empty() { request.send(sql.as_bytes())? } else { request.query("query", sql).send(data)? };
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).map(|value| value.as_bytes().to_vec());
        let code = header("X-ClickHouse-Exception-Code");
        let code = code.and_then(|code| String::from_utf8_lossy(&code).trim().parse().ok());
        let query_id = header("X-ClickHouse-Query-Id");
        let is_clickhouse =
            header("X-ClickHouse-Server-Display-Name").is_some() || header("X-ClickHouse-Summary").is_some();
        let retry_after =
            header("Retry-After").and_then(|seconds| String::from_utf8_lossy(&seconds).trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok(Reply { status, code, query_id, is_clickhouse, retry_after, body })
    }

    /// Asks a question that changes nothing; `what` says, for a message, what cannot be done.
    ///
    /// # Errors
    /// ClickHouse's, sorted by exit code.
    pub fn query(&self, what: &str, sql: &str, settings: &[(&str, &str)]) -> Result<Vec<u8>> {
        match self.ask(sql, settings) {
            Ok(Answer::Ok(body)) => Ok(body),
            Ok(Answer::Exception(exception)) => Err(self.explain(what, &exception)),
            Err(error) => Err(self.unreachable(what, error)),
        }
    }

    /// Asks for rows, each an object of its columns.
    pub(crate) fn rows<T: DeserializeOwned>(&self, what: &str, sql: &str, settings: &[(&str, &str)]) -> Result<Vec<T>> {
        let answer = self.query(what, &format!("{sql} FORMAT JSONEachRow"), settings)?;
        serde_json::Deserializer::from_slice(&answer)
            .into_iter()
            .collect::<Result<Vec<T>, _>>()
            .map_err(|error| self.unreadable(what, error))
    }

    pub(crate) fn explain(&self, what: &str, exception: &Exception) -> Error {
        exception.error(format!("{what} in ClickHouse at {}", self.address()))
    }

    /// The error for a reply of another form than was asked for.
    pub fn unreadable(&self, what: &str, why: impl std::fmt::Display) -> Error {
        Error::unavailable(
            format!("{what} in ClickHouse at {}", self.address()),
            format!("the reply is not what was asked for: {why}"),
            "check the proxy before ClickHouse, which may have cut the reply short or sent one of its own; the next run resumes here",
        )
    }

    /// The error for a request that got no answer.
    pub(crate) fn unreachable(&self, what: &str, error: ureq::Error) -> Error {
        let error = match error {
            // No request was made: there was no password for it.
            ureq::Error::Other(inner) => match inner.downcast::<Error>() {
                Ok(error) => return *error,
                Err(inner) => ureq::Error::Other(inner),
            },
            error => error,
        };
        let exit = match &error {
            ureq::Error::Tls(_) | ureq::Error::NativeTls(_) => ExitCode::Config,
            _ => ExitCode::Unavailable,
        };
        Error::new(
            exit,
            format!("{what} in ClickHouse at {}", self.address()),
            &error,
            "check that the server runs and that [clickhouse] url and its certificates are right; the next run resumes here",
        )
        .with_source(error)
    }
}

/// What finds a run's statements in `system.query_log`.
pub(super) fn run_comment() -> String {
    format!("pg2ch {}", RunId::current())
}

fn read_certificates(file: &std::path::Path) -> Result<Vec<ureq::tls::Certificate<'static>>> {
    let fail = |why: String| {
        Error::config(
            format!("cannot use [clickhouse] ca_cert {}", file.display()),
            why,
            "name a PEM file with the certificates of the authorities to trust",
        )
    };
    let pem = std::fs::read(file).map_err(|error| fail(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| fail(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(fail("it holds no certificate".into()));
    }
    Ok(certificates)
}
