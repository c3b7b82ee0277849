//! The effective configuration: every value validated, before any connection is made.
//!
//! Flags come before environment variables, these before the TOML file, and that before the defaults, which fit
//! `docker-compose.yml`. [`load`] is the only way to get one.

mod column_rules;
mod credential;
mod environment;
mod file;
mod kafka;
mod load;
mod notify;
mod oauth;
mod origin;
mod outbox;
mod password;
mod reader;
mod removal;
mod servers;
mod tables;
mod url;
mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use column_rules::ColumnRules;
pub use credential::Credential;
pub use environment::{VARIABLES, wants_json_log};
pub use load::{Flags, JOBS, explain, load};
pub use origin::{Explained, Origin, Setting};
pub use outbox::Outbox;
pub use removal::{DELETED_MARK, HELD_FOR, Keep, Removal};
pub use url::ClickHouseUrl;
pub use value::{duration, nearest};

/// The file that `pg2ch config generate` prints and `scripts/install` puts in place: every key with its default, commented out
/// where it need not be set, and explained.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Everything a command needs to know about its surroundings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the rows come from.
    pub postgres: PostgresConfig,
    /// Where the records go through.
    pub kafka: KafkaConfig,
    /// Where the rows end up.
    pub clickhouse: ClickHouseConfig,
    /// How much is taken at once.
    pub batch: BatchConfig,
    /// How long a call may take.
    pub timeouts: Timeouts,
    /// How often, and with what pauses, a leg is tried again.
    pub retry: RetryConfig,
    /// Where the metrics go.
    pub metrics: MetricsConfig,
    /// Who is told how a run goes.
    pub notify: NotifyConfig,
    /// Whether log lines are JSON.
    pub log_json: bool,
    /// How many tables are moved at a time. 1 to 64.
    pub jobs: usize,
    /// What is moved, in this order. Never empty.
    pub tables: Vec<TableConfig>,
}

/// A string that is never shown: its `Debug` and `Display` print `****`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that hands it to a server.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("****")
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("****")
    }
}

/// How far TLS is insisted upon, with libpq's meaning of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it; no certificate is checked.
    Prefer,
    /// TLS; no certificate is checked unless a root certificate is configured.
    Require,
    /// TLS with a certificate that a trusted authority signed.
    VerifyCa,
    /// The same, and it must be the server's own name. The default for hosts other than this machine.
    VerifyFull,
}

/// What libpq's parameters of these names say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// `target_session_attrs` is `read-write`: hosts whose sessions may not write are passed over.
    pub read_write: bool,
    /// `channel_binding`, where it is not `prefer`: whether it is required.
    pub channel_binding: Option<bool>,
    /// `options`.
    pub options: Option<String>,
    /// `application_name`, the beginning of the session's.
    pub application_name: Option<String>,
    /// `keepalives`: off if it is 0.
    pub no_keepalives: bool,
    /// `keepalives_idle` and `keepalives_interval`, in seconds.
    pub keepalives_idle: Option<u32>,
    /// The latter.
    pub keepalives_interval: Option<u32>,
    /// `keepalives_count`.
    pub keepalives_count: Option<u32>,
}

/// The connection to PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Host names, addresses, or directories of Unix sockets, each with its TCP port: tried in this order. Never empty.
    pub hosts: Vec<(String, u16)>,
    /// What else the URL says about a session.
    pub session: SessionOptions,
    /// Role.
    pub user: String,
    /// Password, if one is needed.
    pub password: Option<Credential>,
    /// Database.
    pub dbname: String,
    /// TLS mode.
    pub ssl_mode: SslMode,
    /// PEM file of the trusted authorities; the system's if none is given.
    pub ssl_root_cert: Option<PathBuf>,
    /// Client certificate and key, PEM files.
    pub ssl_client: Option<(PathBuf, PathBuf)>,
    /// For what percentage of the time that PostgreSQL took for a batch the produce leg pauses behind it. 1 to 10,000.
    pub pause_percent: Option<u64>,
    /// How many bytes of WAL a replica may be behind before the produce leg pauses. 64 KiB to 1 TiB.
    pub max_replication_lag: Option<u64>,
}

impl PostgresConfig {
    /// `host:port/dbname`, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        format!("{}/{}", hosts.join(","), self.dbname)
    }
}

/// The connection to Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// librdkafka properties passed on as they are (TLS, SASL). Those on which the promise rests are refused when the
    /// configuration is loaded.
    pub properties: BTreeMap<String, Secret>,
    /// SASL's password, where it is in none of them.
    pub sasl_password: Option<Credential>,
    /// Where the tokens come from, with OAUTHBEARER.
    pub token_source: Option<TokenSource>,
    /// Whether batches are sent as transactions. `false` weakens the promise, for clusters that forbid them.
    pub transactional: bool,
    /// Put in front of every `transactional.id`, which is unique in the whole cluster: staging must not fence production.
    pub transactional_prefix: String,
}

/// Where a token of OAUTHBEARER comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// From where a password would be: a command prints it, a file holds it.
    Kept(Credential),
    /// From a server that gives it to a client.
    Server(TokenServer),
}

/// A server that gives out tokens (OAuth 2.0, client credentials: RFC 6749, section 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenServer {
    /// Its token endpoint.
    pub url: String,
    /// The client that asks.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Credential,
    /// What the token is to be good for.
    pub scope: Option<String>,
}

/// The connection to ClickHouse.
#[derive(Clone, Debug)]
pub struct ClickHouseConfig {
    /// Never with a user or password.
    pub url: ClickHouseUrl,
    /// User.
    pub user: String,
    /// Password, maybe empty.
    pub password: Credential,
    /// PEM file of the trusted authorities for https; the system's if none is given.
    pub ca_cert: Option<PathBuf>,
}

/// How much is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct BatchConfig {
    /// Rows read, sent and flagged as one batch (one Kafka transaction, one flagging transaction). 1 to 1,000,000.
    pub rows: usize,
    /// Bytes of row text in one such batch, at most, unless a single row is larger. 64 KiB to 1 GiB.
    pub bytes: usize,
    /// Rows inserted into ClickHouse at once. 1 to 1,000,000.
    pub insert_rows: usize,
    /// Bytes of rows, as they are sent, after which such an insert takes no more. 64 KiB to 1 GiB.
    pub insert_bytes: usize,
}

/// How long one call may take. Every call to every server has a limit; `ARCHITECTURE.md` adds them up.
///
/// Each is from 1 millisecond to 1 hour.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a connection stands, TLS and password included.
    pub connect: Duration,
    /// One PostgreSQL statement.
    pub postgres: Duration,
    /// How long a flagging statement waits for rows that an application has locked.
    pub row_lock: Duration,
    /// One Kafka request, or a transaction's commit.
    pub kafka: Duration,
    /// How long the last stable offset may stay below the end of the topic.
    pub stable: Duration,
    /// One ClickHouse request.
    pub clickhouse: Duration,
}

/// Bounded, jittered retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryConfig {
    /// How often a leg, or an insert, is tried in all. 1 to 1,000.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles from then on. At most 1 hour.
    pub pause: Duration,
    /// The longest pause. At least `pause`, at most 1 hour.
    pub max_pause: Duration,
    /// How long all attempts together may take, counted from when something was last moved. From 1 millisecond to 1 hour.
    pub give_up: Duration,
}

/// Where the metrics go.
#[derive(Clone, Debug, Default)]
pub struct MetricsConfig {
    /// Prometheus textfile, written atomically after each run.
    pub textfile: Option<PathBuf>,
    /// The configuration file, which the textfile names as the origin of its tables' series; empty without either.
    pub origin: PathBuf,
    /// Whether the configuration's tables are all there, and not only those that `--table` names.
    pub has_all_tables: bool,
}

/// Who is told how a run goes.
#[derive(Clone, Debug, Default)]
pub struct NotifyConfig {
    /// The check's URL, which is a secret: anyone who has it can report in its name.
    pub url: Option<Credential>,
    /// How long one report may take.
    pub timeout: Duration,
}

/// What happens to a record that the target refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadRow {
    /// It goes to the dead-letter topic, with its reason; the run continues and ends with 65.
    DeadLetter,
    /// The run stops in front of it, with 65.
    Stop,
}

/// Which of a table's columns are sent. The key's always are, the flag never is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnChoice {
    /// All of them.
    #[default]
    All,
    /// These, besides the key's.
    Only(Vec<String>),
    /// All but these.
    AllBut(Vec<String>),
}

/// One table's way through Kafka into ClickHouse.
#[derive(Clone, Debug)]
pub struct TableConfig {
    /// The source table as SQL names it: `schema.table`, quoted where SQL would need it.
    pub source: String,
    /// The columns of its primary key, in order, as they are named in the catalogue (not quoted). Never empty.
    pub key: Vec<String>,
    /// The boolean column that says whether a row was sent.
    pub flag: String,
    /// An SQL condition on a row: others stay unsent, and do not count as unsent.
    pub condition: Option<String>,
    /// The other sources that may have none of its rows: they have the same flag, and no condition divides the rows of the two.
    pub apart_from: Vec<String>,
    /// Which columns a record's value has.
    pub columns: ColumnChoice,
    /// The topic.
    pub topic: String,
    /// The target table: database and name, not quoted.
    pub target: TargetName,
    /// The consumer group that holds the offsets.
    pub group: String,
    /// What happens to a record that the target refuses.
    pub on_bad_row: OnBadRow,
    /// How many records may be refused in one run before it stops: more of them suggest a table that does not fit. 0 to
    /// 1,000,000.
    pub max_dead_letters: u64,
    /// How many rows the produce leg reads in a second, at most. From 1 on.
    pub max_rows_per_second: Option<u64>,
    /// Which columns have other names in the target, and which it does not get.
    pub column_rules: ColumnRules,
    /// The engine that the target may have although it loses or folds rows.
    pub allow_engine: Option<String>,
    /// The order of its rows, and what its records have beside the value.
    pub outbox: Outbox,
    /// How its rows leave.
    pub removal: Removal,
}

impl TableConfig {
    /// The topic that takes what the target refuses.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dead", self.topic)
    }

    /// The key of a record's row: the record's own, or, with `message_key`, the one in its value. Empty where there is none.
    #[must_use]
    pub fn row_key<'a>(&self, key: Option<&'a [u8]>, value: Option<&[u8]>) -> Cow<'a, [u8]> {
        if self.outbox.message_key.is_empty() {
            return Cow::Borrowed(key.unwrap_or_default());
        }
        let read = value.and_then(|value| outbox::row_key(&self.key, value));
        Cow::Owned(read.unwrap_or_default().into_bytes())
    }
}

/// A ClickHouse table's database and name, unquoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetName {
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
}

impl std::fmt::Display for TargetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}
