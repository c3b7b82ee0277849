//! `[kafka]`: brokers, and the properties of librdkafka that may be passed on, or why not.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::environment::{KAFKA_BROKERS, KAFKA_SASL_PASSWORD};
use super::file::Value;
use super::origin::Origin;
use super::reader::{Given, Reader, kind, refuse};
use super::{Credential, KafkaConfig, Secret, TokenSource, oauth, password, value};
use crate::error::Result;

const PASSWORD: &str = "sasl.password";

const PROMISE: &str = "the guarantee depends on it, so pg2ch sets it itself";
const OFFSETS: &str = "offsets are committed only after a confirmed insert, so pg2ch sets it itself";
const TIMEOUT: &str = "pg2ch derives it from `kafka` in [timeouts]";

/// The properties that pg2ch keeps for itself, and why.
const REFUSED: &[(&str, &str)] = &[
    ("acks", PROMISE),
    ("request.required.acks", PROMISE),
    ("enable.idempotence", PROMISE),
    ("enable.gapless.guarantee", PROMISE),
    ("max.in.flight", PROMISE),
    ("max.in.flight.requests.per.connection", PROMISE),
    ("retries", PROMISE),
    ("message.send.max.retries", PROMISE),
    ("isolation.level", "records of aborted transactions must stay out of the target, so pg2ch sets it itself"),
    ("check.crcs", "a damaged record must not reach the target, so pg2ch sets it itself"),
    (
        "transactional.id",
        "it is made of `transactional_prefix` in [kafka] and the table, which is what fences a dead run",
    ),
    ("enable.auto.commit", OFFSETS),
    ("auto.commit.enable", OFFSETS),
    ("auto.commit.interval.ms", OFFSETS),
    ("enable.auto.offset.store", OFFSETS),
    ("auto.offset.reset", "where to start is decided by what the target holds, never by a default"),
    ("enable.partition.eof", "pg2ch sets it itself to see the end of a partition"),
    (
        "client.rack",
        "the nearest replica gets a record later than the leader, and its end would be taken for the topic's",
    ),
    ("group.id", "it is `group` in [[table]]"),
    ("group.instance.id", "pg2ch assigns partitions itself and joins no group"),
    ("bootstrap.servers", "it is `brokers` in [kafka]"),
    ("metadata.broker.list", "it is `brokers` in [kafka]"),
    ("allow.auto.create.topics", "topics are made by `pg2ch init`, with the settings that they need"),
    ("message.max.bytes", "pg2ch follows the topic's `max.message.bytes`"),
    ("message.timeout.ms", TIMEOUT),
    ("request.timeout.ms", TIMEOUT),
    ("socket.timeout.ms", TIMEOUT),
    ("socket.connection.setup.timeout.ms", "pg2ch derives it from `connect` in [timeouts]"),
    ("delivery.timeout.ms", TIMEOUT),
];

/// The properties whose values `config show` prints. Whatever is not known to be harmless is masked.
const HARMLESS: &[&str] = &[
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.kerberos.service.name",
    "client.id",
    "compression.type",
    "compression.codec",
    "compression.level",
    "partitioner",
    "debug",
    "broker.address.family",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "ssl.cipher.suites",
];

/// Reads `[kafka]` and `[kafka.properties]`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(reader: &mut Reader) -> Result<KafkaConfig> {
    let brokers = brokers(reader)?;
    let transactional = reader.truth("kafka", "transactional", true)?;
    let prefix = reader
        .given_text("kafka", "transactional_prefix", None)?
        .unwrap_or(Given { value: "pg2ch".to_owned(), origin: Origin::Default });
    value::transactional_prefix(&prefix.value).map_err(|why| {
        let hint = "give each environment that shares the cluster its own, such as \"pg2ch-staging\"";
        refuse("kafka.transactional_prefix", &prefix.origin, why, hint)
    })?;
    reader.note("kafka.transactional_prefix", &prefix.value, &prefix.origin);
    let Login { properties, sasl_password, token_source } = login(reader)?;
    Ok(KafkaConfig {
        brokers,
        properties,
        sasl_password,
        token_source,
        transactional,
        transactional_prefix: prefix.value,
    })
}

fn brokers(reader: &mut Reader) -> Result<String> {
    let given = reader
        .given_list("kafka", "brokers", Some(KAFKA_BROKERS))?
        .unwrap_or(Given { value: "localhost:9092".to_owned(), origin: Origin::Default });
    let hint = "write [\"kafka1:9092\", \"kafka2:9092\"] or \"kafka1:9092,kafka2:9092\"; user and password belong in \
                [kafka.properties] and `sasl_password_file`";
    let brokers: Vec<&str> = given.value.split(',').map(str::trim).collect();
    for (at, broker) in brokers.iter().enumerate() {
        // The broker itself is not shown: a password may be written in it.
        check_broker(broker)
            .map_err(|why| refuse("kafka.brokers", &given.origin, format!("in entry {}, {why}", at + 1), hint))?;
    }
    let brokers = brokers.join(",");
    reader.note("kafka.brokers", &brokers, &given.origin);
    Ok(brokers)
}

fn check_broker(broker: &str) -> Result<(), &'static str> {
    if broker.contains("://") {
        return Err(
            "a protocol stands in front of the host: write host:port, and `security.protocol` in [kafka.properties]",
        );
    }
    let (host, port) = match broker.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a `[` is not closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "the brackets do not hold an IPv6 address")?;
            ("v6", after.strip_prefix(':').or(if after.is_empty() { None } else { Some("") }))
        }
        None => broker.split_once(':').map_or((broker, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        return Err("the host is neither a name nor an address");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(_) => Err("the port is not a number from 1 to 65535"),
    }
}

/// The properties, and what else is needed to log in.
struct Login {
    properties: BTreeMap<String, Secret>,
    sasl_password: Option<Credential>,
    token_source: Option<TokenSource>,
}

fn login(reader: &mut Reader) -> Result<Login> {
    let mut properties: BTreeMap<String, (Secret, Origin)> = BTreeMap::new();
    if let Some(mut file) = reader.file.take() {
        for (name, entry) in std::mem::take(&mut file.properties) {
            let origin = file.origin(entry.line);
            let text = property(&name, &origin, entry.value)?;
            reader.file_holds_secret |= is_secret(&name);
            properties.insert(name, (Secret::new(text), origin));
        }
        reader.file = Some(file);
    }
    let variable = reader.environment.text(KAFKA_SASL_PASSWORD)?;
    let kept = match &variable {
        Some(_) => None,
        None => password::kept(reader, "kafka", "sasl_password_file", "sasl_password_command")?,
    };
    let mut sasl_password = None;
    if let Some(password) = variable {
        properties.insert(PASSWORD.to_owned(), (Secret::new(password), Origin::Environment(KAFKA_SASL_PASSWORD)));
    } else if let Some(given) = kept {
        if let Some((_, other)) = properties.get(PASSWORD) {
            let why = format!("`sasl_password_file` or `sasl_password_command` is set as well ({})", given.origin);
            let place = format!("kafka.properties.{PASSWORD}");
            return Err(refuse(&place, other, why, "keep one of the two, best the file or the command"));
        }
        reader.note(format!("kafka.properties.{PASSWORD}"), Secret::default().to_string(), &given.origin);
        sasl_password = Some(given);
    }
    let token_server = oauth::server(reader)?;
    let token_source = oauth::source(&properties, token_server, &mut sasl_password)?;
    for (name, (value, origin)) in &properties {
        let shown = if is_harmless(name) { value.reveal().to_owned() } else { value.to_string() };
        reader.note(format!("kafka.properties.{name}"), shown, origin);
    }
    if token_source.is_some() {
        // If there is one it is the token.
        properties.remove(PASSWORD);
    }
    let properties = properties.into_iter().map(|(name, (value, _))| (name, value)).collect();
    Ok(Login { properties, sasl_password: sasl_password.map(|given| given.value), token_source })
}

fn property(name: &str, origin: &Origin, value: Value) -> Result<String> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !is_name {
        // Not shown: it may be a line that went astray.
        let why = "librdkafka has no property of this name";
        return Err(refuse("kafka.properties", origin, why, "see librdkafka's CONFIGURATION.md for the names"));
    }
    let place = format!("kafka.properties.{name}");
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(refuse(&place, origin, why, "take it out of [kafka.properties]"));
    }
    oauth::refuse_librdkafkas_own(&place, name, origin)?;
    let text = match value {
        Value::Text(text) => text,
        Value::Whole(number) => number.to_string(),
        Value::Truth(truth) => truth.to_string(),
        other => {
            let why = format!("it is {}", kind(&other));
            return Err(refuse(&place, origin, why, "write a string, a whole number, true or false"));
        }
    };
    if text.contains('\0') {
        return Err(refuse(&place, origin, "it holds a NUL", "take the NUL out"));
    }
    known_to_librdkafka(&place, name, &text, origin)?;
    Ok(text)
}

/// Asks librdkafka itself, which knows its properties and their values; a client is not made yet.
fn known_to_librdkafka(place: &str, name: &str, value: &str, origin: &Origin) -> Result<()> {
    let mut properties = ClientConfig::new();
    properties.set(name, value);
    let KafkaError::ClientConfig(kind, ..) = (match properties.create_native_config() {
        Ok(_) => return Ok(()),
        Err(error) => error,
    }) else {
        return Ok(());
    };
    // Its own words are not shown: they repeat the value.
    let why = match kind {
        RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => "librdkafka has no such property",
        _ => "librdkafka does not accept it",
    };
    let hint =
        "correct name and value: librdkafka's CONFIGURATION.md lists them, and Java's clients have names of their own";
    Err(refuse(place, origin, why, hint))
}

fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name)
        || [".ms", ".bytes", ".messages", ".kbytes", ".location"].iter().any(|end| name.ends_with(end))
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", ".pem"].iter().any(|part| name.contains(part))
}
