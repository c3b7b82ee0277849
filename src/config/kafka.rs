//! `[kafka]`: brokers, and the properties of librdkafka that may be passed on, or why not.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::environment::{KAFKA_BROKERS, KAFKA_SASL_PASSWORD};
use super::file::Value;
use super::oauth::Properties;
use super::origin::Given;
use super::reader::{Reader, Section};
use super::{Credential, KafkaConfig, Secret, TokenSource, oauth, password, url, value};
use crate::error::Result;

const PASSWORD: &str = "sasl.password";

/// The properties that pg2ch keeps for itself, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "acks request.required.acks enable.idempotence enable.gapless.guarantee max.in.flight \
         max.in.flight.requests.per.connection retries message.send.max.retries",
        "the guarantee depends on it, so pg2ch sets it itself",
    ),
    ("isolation.level", "records of aborted transactions must stay out of the target, so pg2ch sets it itself"),
    ("check.crcs", "a damaged record must not reach the target, so pg2ch sets it itself"),
    (
        "transactional.id",
        "it is made of `transactional_prefix` in [kafka] and the table, which is what fences a dead run",
    ),
    (
        "enable.auto.commit auto.commit.enable auto.commit.interval.ms enable.auto.offset.store",
        "offsets are committed only after a confirmed insert, so pg2ch sets it itself",
    ),
    ("auto.offset.reset", "where to start is decided by what the target holds, never by a default"),
    ("enable.partition.eof", "pg2ch sets it itself to see the end of a partition"),
    (
        "client.rack",
        "the nearest replica gets a record later than the leader, and its end would be taken for the topic's",
    ),
    ("group.id", "it is `group` in [[table]]"),
    ("group.instance.id", "pg2ch assigns partitions itself and joins no group"),
    ("bootstrap.servers metadata.broker.list", "it is `brokers` in [kafka]"),
    ("allow.auto.create.topics", "topics are made by `pg2ch init`, with the settings that they need"),
    ("message.max.bytes", "pg2ch follows the topic's `max.message.bytes`"),
    ("queuing.strategy", "it could change the order of records"),
    ("delivery.report.only.error", "pg2ch flags the rows that the brokers have confirmed, one by one"),
    ("test.mock.num.brokers", "the records would go to brokers that exist in pg2ch's memory only"),
    (
        "message.timeout.ms request.timeout.ms socket.timeout.ms delivery.timeout.ms",
        "pg2ch derives it from `kafka` in [timeouts]",
    ),
    ("socket.connection.setup.timeout.ms", "pg2ch derives it from `connect` in [timeouts]"),
];

/// The properties whose values `config show` prints. Whatever is not known to be harmless is masked.
const HARMLESS: &str = "\
    security.protocol sasl.mechanism sasl.mechanisms sasl.username sasl.kerberos.service.name client.id compression.type \
    compression.codec compression.level partitioner debug broker.address.family \
    ssl.endpoint.identification.algorithm enable.ssl.certificate.verification ssl.cipher.suites";

/// Reads `[kafka]` and `[kafka.properties]`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(reader: &mut Reader) -> Result<KafkaConfig> {
    let mut section = reader.section("kafka");
    let brokers = brokers(&mut section)?;
    let transactional = section.truth("transactional", true)?;
    let hint = "give each environment that shares the cluster its own, such as \"pg2ch-staging\"";
    let check = value::transactional_prefix;
    let transactional_prefix = section.checked("transactional_prefix", Some("pg2ch"), hint, check)?;
    let Login { properties, sasl_password, token_source } = login(&mut section)?;
    Ok(KafkaConfig { brokers, properties, sasl_password, token_source, transactional, transactional_prefix })
}

fn brokers(section: &mut Section<'_>) -> Result<String> {
    let hint = "write [\"kafka1:9092\", \"kafka2:9092\"] or \"kafka1:9092,kafka2:9092\"; user and password belong in \
                [kafka.properties] and `sasl_password_file`";
    let checked = |text: String| {
        let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
        for (at, broker) in brokers.iter().enumerate() {
            // The broker itself is not shown: a password may be written in it.
            check_broker(broker).map_err(|why| format!("in entry {}, {why}", at + 1))?;
        }
        Ok::<_, String>(brokers.join(","))
    };
    section.join_list("brokers");
    let given = section.text_or("brokers", KAFKA_BROKERS, "localhost:9092")?.read(checked, hint)?;
    section.note("brokers", &given.value, &given.origin);
    Ok(given.value)
}

fn check_broker(broker: &str) -> Result<(), String> {
    if broker.contains("://") {
        let why =
            "a protocol stands in front of the host: write host:port, and `security.protocol` in [kafka.properties]";
        return Err(why.to_owned());
    }
    let (host, port) = match broker.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a `[` is not closed")?;
            host.parse::<Ipv6Addr>().map_err(|_| "the brackets do not hold an IPv6 address")?;
            (host, (!after.is_empty()).then(|| after.strip_prefix(':').unwrap_or_default()))
        }
        None => broker.split_once(':').map_or((broker, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    url::check_host(host, false)?;
    port.map_or(Ok(()), |text| url::port(text).map(drop))
}

/// The properties, and what else is needed to log in.
struct Login {
    properties: BTreeMap<String, Secret>,
    sasl_password: Option<Credential>,
    token_source: Option<TokenSource>,
}

fn login(section: &mut Section<'_>) -> Result<Login> {
    let mut properties = Properties::new();
    for (name, given) in std::mem::take(&mut section.reader.file.properties) {
        let given = property(&name, given)?;
        section.reader.file_holds_secret |= is_secret(&name);
        properties.insert(name, given.map(Secret::new));
    }
    let key = "properties.sasl.password";
    let mut sasl_password = None;
    match section.variable(key, KAFKA_SASL_PASSWORD)? {
        Some(given) => drop(properties.insert(PASSWORD.to_owned(), given.map(Secret::new))),
        None => sasl_password = password::kept(section, "sasl_password_file", "sasl_password_command")?,
    }
    if let Some(given) = &sasl_password {
        if let Some(other) = properties.get(PASSWORD) {
            let why = format!("`sasl_password_file` or `sasl_password_command` is set as well ({})", given.origin);
            return Err(other.refuse(why, "keep one of the two, best the file or the command"));
        }
        section.note_secret(key, Some(given));
    }
    let token_server = oauth::server(section)?;
    let token_source = oauth::source(&properties, token_server, &mut sasl_password)?;
    for (name, given) in &properties {
        let shown = if is_harmless(name) { given.value.reveal().to_owned() } else { given.value.to_string() };
        section.reader.note(&given.place, shown, &given.origin);
    }
    if token_source.is_some() {
        // If there is one it is the token.
        properties.remove(PASSWORD);
    }
    let properties = properties.into_iter().map(|(name, given)| (name, given.value)).collect();
    Ok(Login { properties, sasl_password: sasl_password.map(|given| given.value), token_source })
}

fn property(name: &str, given: Given<Value>) -> Result<Given<String>> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !is_name {
        // Not shown: it may be a line that went astray.
        let (why, hint) =
            ("librdkafka has no property of this name", "see librdkafka's CONFIGURATION.md for the names");
        return Err(given.origin.refuse("kafka.properties", why, hint));
    }
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| value::is_one_of(refused, name)) {
        return Err(given.refuse(why, "take it out of [kafka.properties]"));
    }
    oauth::refuse_librdkafkas_own(name, &given)?;
    let text = |value| match value {
        Value::Text(text) => Ok(text),
        Value::Whole(number) => Ok(number.to_string()),
        Value::Truth(truth) => Ok(truth.to_string()),
        other => Err(format!("it is {}", other.kind())),
    };
    let given = given.read(text, "write a string, a whole number, true or false")?;
    if given.value.contains('\0') {
        return Err(given.refuse("it holds a NUL", "take the NUL out"));
    }
    known_to_librdkafka(name, &given)?;
    refuse_at_random(name, &given)?;
    Ok(given)
}

/// All records with one key go to one partition; an empty text is a key, too.
fn refuse_at_random(name: &str, given: &Given<String>) -> Result<()> {
    let (what, other) = match given.value.as_str() {
        _ if name != "partitioner" => return Ok(()),
        "random" => ("records", "murmur2_random, which pg2ch uses without it,"),
        "consistent_random" => ("records with an empty key", "consistent, which is the same for every other key,"),
        _ => return Ok(()),
    };
    let why = format!("it sends {what} to partitions at random: the order of a key's records would be lost");
    Err(given.refuse(why, &format!("take it out of [kafka.properties], or set {other} instead")))
}

/// Asks librdkafka itself, which knows its properties and their values; a client is not made yet.
fn known_to_librdkafka(name: &str, given: &Given<String>) -> Result<()> {
    let mut properties = ClientConfig::new();
    properties.set(name, &given.value);
    let Err(KafkaError::ClientConfig(kind, ..)) = properties.create_native_config() else { return Ok(()) };
    // Its own words are not shown: they repeat the value.
    let why = match kind {
        RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => "librdkafka has no such property",
        _ => "librdkafka does not accept it",
    };
    let hint =
        "correct name and value: librdkafka's CONFIGURATION.md lists them, and Java's clients have names of their own";
    Err(given.refuse(why, hint))
}

fn is_harmless(name: &str) -> bool {
    value::is_one_of(HARMLESS, name)
        || [".ms", ".bytes", ".messages", ".kbytes", ".location"].iter().any(|end| name.ends_with(end))
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", ".pem"].iter().any(|part| name.contains(part))
}
