//! What a script is answered: the rows of each of its statements, as text.

use postgres::{SimpleQueryMessage, SimpleQueryRow};

/// The rows of each statement.
pub type Answers = Vec<Vec<SimpleQueryRow>>;

/// The answers in what the server sends.
pub(super) fn answers_of(messages: Vec<SimpleQueryMessage>) -> Answers {
    let (mut answers, mut rows) = (Answers::new(), Vec::new());
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(row),
            SimpleQueryMessage::CommandComplete(_) => answers.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    answers
}

/// Whether a column is true.
pub(super) fn is_true(row: &SimpleQueryRow, at: usize) -> bool {
    row.get(at) == Some("t")
}
