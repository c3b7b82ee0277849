//! The commands that give pg2ch's principal what Kafka has refused it: those of `docs/grants.md`, with the names in use.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::config::Config;

/// What a client uses of a cluster, and as whom.
#[derive(Debug)]
pub struct Uses {
    brokers: String,
    principal: String,
    transactional_prefix: String,
    topics: Vec<String>,
    operations: &'static [&'static str],
    group: Option<String>,
    logs_in_with_token: bool,
}

/// What a run does with its topics.
const OPERATIONS: &[&str] = &["Read", "Write", "Describe", "DescribeConfigs"];

impl Uses {
    /// These topics.
    #[must_use]
    pub fn topics(config: &Config, topics: &[&str]) -> Self {
        let user = config.kafka.properties.get("sasl.username");
        Self {
            brokers: config.kafka.brokers.clone(),
            // With client certificates it is a certificate's name, as the brokers' rules make it.
            principal: user.map_or_else(|| "User:<principal>".to_owned(), |user| format!("User:{}", user.reveal())),
            transactional_prefix: config.kafka.transactional_prefix.clone(),
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            operations: OPERATIONS,
            group: None,
            logs_in_with_token: config.kafka.token_source.is_some(),
        }
    }

    /// Whether it logs in with a token, and not with a password.
    #[must_use]
    pub const fn logs_in_with_token(&self) -> bool {
        self.logs_in_with_token
    }

    /// Does this with them, and nothing else.
    #[must_use]
    pub fn only(mut self, operations: &'static [&'static str]) -> Self {
        self.operations = operations;
        self
    }

    /// A group's offsets as well.
    #[must_use]
    pub fn and_group(mut self, group: &str) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    /// What grants the operations that an answer with this code was about; `None` if it was about something else.
    #[must_use]
    pub fn grant(&self, refusal: Code) -> Option<String> {
        let (operations, resource) = match refusal {
            Code::TopicAuthorizationFailed if !self.topics.is_empty() => {
                let topics: Vec<String> = self.topics.iter().map(|topic| format!("--topic {topic}")).collect();
                (self.operations, topics.join(" "))
            }
            Code::GroupAuthorizationFailed => {
                (&["Read", "Describe"][..], format!("--group {}", word(self.group.as_deref()?)))
            }
            Code::TransactionalIdAuthorizationFailed => {
                let prefix = &self.transactional_prefix;
                (&["Write", "Describe"][..], format!("--transactional-id {prefix}- --resource-pattern-type prefixed"))
            }
            Code::ClusterAuthorizationFailed => (&["IdempotentWrite"][..], "--cluster".to_owned()),
            _ => return None,
        };
        let operations: Vec<String> = operations.iter().map(|operation| format!("--operation {operation}")).collect();
        Some(format!(
            "kafka-acls.sh --bootstrap-server {} --add --allow-principal {} {} {resource}",
            self.brokers,
            word(&self.principal),
            operations.join(" "),
        ))
    }
}

/// As a shell takes it for one word.
fn word(text: &str) -> String {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@/+".contains(c)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_command_and_nothing_else_has_one() {
        let mut config = crate::config::load(&crate::config::Flags::default()).unwrap();
        config.kafka.brokers = "k:1".into();
        let uses = Uses::topics(&config, &["a", "b"]);
        let refused = Code::TopicAuthorizationFailed;
        let front = "kafka-acls.sh --bootstrap-server k:1 --add --allow-principal";
        let all =
            "--operation Read --operation Write --operation Describe --operation DescribeConfigs --topic a --topic b";
        assert_eq!(uses.grant(refused).unwrap(), format!("{front} 'User:<principal>' {all}"));
        assert_eq!(uses.grant(Code::GroupAuthorizationFailed), None, "it uses no group");

        config.kafka.properties.insert("sasl.username".into(), crate::config::Secret::new("it's me"));
        let uses = Uses::topics(&config, &["a"]).only(&["Create"]).and_group("a group");
        assert_eq!(uses.grant(refused).unwrap(), format!(r"{front} 'User:it'\''s me' --operation Create --topic a"));
        let group = uses.grant(Code::GroupAuthorizationFailed).unwrap();
        assert!(group.ends_with("--operation Read --operation Describe --group 'a group'"), "{group}");
        assert_eq!(uses.grant(Code::OperationTimedOut), None);
    }
}
