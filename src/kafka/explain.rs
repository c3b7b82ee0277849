//! Sorts librdkafka's errors by what the reader has to do about them.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::acl::Uses;
use crate::error::{Error, ExitCode};

/// Tells a failure of a client that `uses` this. `reported` is what its threads reported last: the reason behind a bare "timed out".
#[must_use]
pub fn explain(what: &str, error: &KafkaError, reported: Option<(Code, String)>, uses: &Uses) -> Error {
    let code = code_of(error);
    let told = match error {
        KafkaError::Transaction(error) => error.string(),
        other => other.to_string(),
    };
    let decisive = decisive(code, reported.as_ref());
    let why = match reported {
        Some((_, text)) if code.is_some_and(is_vague) => format!("{told}: {text}"),
        _ => told,
    };
    let cause = Cause { error: error.clone(), code: decisive };
    if let Some(command) = decisive.and_then(|code| uses.grant(code)) {
        return Error::new(ExitCode::Permission, what, why, format!("{GRANT}: {command}")).with_source(cause);
    }
    let has_token = uses.logs_in_with_token();
    let (exit, hint) = decisive.map_or((ExitCode::Unavailable, UNAVAILABLE), |code| sort(code, has_token));
    Error::new(exit, what, why, hint).with_source(cause)
}

/// The code that decides what an error means: that of what was `reported`, where its own is vague.
#[must_use]
pub fn decisive(code: Option<Code>, reported: Option<&(Code, String)>) -> Option<Code> {
    match reported {
        Some((reported, _)) if code.is_some_and(is_vague) => Some(*reported),
        _ => code,
    }
}

/// librdkafka's error, and its [`decisive`] code.
#[derive(Debug)]
struct Cause {
    error: KafkaError,
    code: Option<Code>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Whether a code only says that something else went wrong before.
#[must_use]
pub fn is_vague(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::AllBrokersDown
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::Fail
    )
}

/// Whether the brokers said that there is no such topic, and not that they cannot be asked.
#[must_use]
pub fn is_unknown_topic(error: &Error) -> bool {
    matches!(code_behind(error), Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::InvalidTopic))
}

/// The code with which the brokers said that the principal may not do this, if they did.
#[must_use]
pub fn refusal(error: &Error) -> Option<Code> {
    code_behind(error).filter(|code| is_refused(*code))
}

fn code_behind(error: &Error) -> Option<Code> {
    std::error::Error::source(error)?.downcast_ref::<Cause>()?.code
}

/// The code of an error.
#[must_use]
pub fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether the brokers say with this code that the principal may not do something.
#[must_use]
pub fn is_refused(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// Whether the code says that a later producer of the same name has shut this one out.
#[must_use]
pub fn is_fenced(code: Code) -> bool {
    matches!(code, Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch)
}

const GRANT: &str = "grant the principal what docs/grants.md lists for topics, group and transactional ids";

const UNAVAILABLE: &str = "check that the brokers run and that [kafka] brokers names them as this machine can reach them; the next run resumes here";

fn sort(code: Code, has_token: bool) -> (ExitCode, &'static str) {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed if has_token => (
            ExitCode::Permission,
            "check that the token's issuer, audience and scope are those that the brokers accept, and all clocks; the brokers' own log has the reason",
        ),
        Code::Authentication | Code::SaslAuthenticationFailed => (
            ExitCode::Permission,
            "check user, password and mechanism in [kafka.properties] (PG2CH_KAFKA_SASL_PASSWORD)",
        ),
        Code::SSL => (
            ExitCode::Config,
            "check security.protocol and the ssl.* entries in [kafka.properties]: ssl.ca.location names the authority that signed \
             the brokers' certificates, which must name the hosts in [kafka] brokers",
        ),
        code if is_refused(code) => (ExitCode::Permission, GRANT),
        code if is_fenced(code) => (
            ExitCode::Locked,
            "another run with the same transactional.id has started and resumes here; check whether this job is scheduled twice, or give each environment its own [kafka] transactional_prefix",
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::InvalidTopic => {
            (ExitCode::Config, "run `pg2ch init` to create the topic, or correct `topic` in [[table]]")
        }
        // librdkafka says the former of a partition that the brokers have named, and that no broker leads.
        Code::UnknownPartition | Code::LeaderNotAvailable | Code::NotLeaderForPartition => (
            ExitCode::Unavailable,
            "start the brokers that have replicas of the topic's partitions (`kafka-topics.sh --describe` names them): one has no \
             leader; the next run resumes here",
        ),
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => (
            ExitCode::Unavailable,
            "start the brokers that are missing, or set the topic's min.insync.replicas to at most its number of replicas",
        ),
        // Brokers say the former of a refused timestamp, and of nothing else that pg2ch sends: each record has a key.
        Code::InvalidRecord | Code::InvalidTimestamp => (
            ExitCode::Config,
            "synchronise the clocks of PostgreSQL and the brokers, or raise the topic's message.timestamp.after.max.ms: they differ by more",
        ),
        Code::InvalidTransactionTimeout => (
            ExitCode::Config,
            "set [timeouts] kafka to at most half of the brokers' transaction.max.timeout.ms, and `transaction.timeout.ms` in \
             [kafka.properties], if it is set there, to at most all of it; or raise that",
        ),
        Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress | Code::FencedInstanceId => (
            ExitCode::Config,
            "another consumer is a live member of this group: stop it, or give pg2ch a `group` of its own",
        ),
        Code::InvalidArgument | Code::InvalidConfig | Code::UnsupportedFeature | Code::UnsupportedVersion => {
            (ExitCode::Config, "check [kafka] and [kafka.properties]; pg2ch needs brokers of version 2.5 or later")
        }
        _ => (ExitCode::Unavailable, UNAVAILABLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_a_leader_passes_and_a_topic_that_does_not_exist_does_not() {
        for code in [Code::UnknownPartition, Code::LeaderNotAvailable] {
            assert_eq!(sort(code, false).0, ExitCode::Unavailable, "{code:?}");
        }
        assert_eq!(sort(Code::UnknownTopicOrPartition, false).0, ExitCode::Config);
    }
}
