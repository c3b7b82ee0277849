//! A record's headers between librdkafka and pg2ch's own bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, Message, OwnedHeaders};

use crate::data::{Headers, push_header};

/// Stands for headers of which a name is no text: no record of pg2ch has it.
const UNREADABLE: &str = "pg2ch-unreadable-headers";

/// The headers of a message, from number `from` on, as the bytes of [`Headers`].
pub fn read(message: &BorrowedMessage<'_>, from: usize) -> Vec<u8> {
    message.headers().map(|headers| bytes(headers, from)).unwrap_or_default()
}

fn bytes(headers: &BorrowedHeaders, from: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for header in (from..headers.count()).map(|index| get(headers, index)) {
        match header {
            Some(Header { key, value }) => push_header(&mut bytes, key, value),
            None => push_header(&mut bytes, UNREADABLE, None),
        }
    }
    bytes
}

/// One of them. Another producer may have given it a name that is no UTF-8, on which the library panics.
pub fn get(headers: &BorrowedHeaders, index: usize) -> Option<Header<'_, &[u8]>> {
    catch_unwind(AssertUnwindSafe(|| headers.try_get(index))).ok().flatten()
}

/// `into` with these behind.
pub fn add(into: OwnedHeaders, headers: Headers<'_>) -> OwnedHeaders {
    headers.iter().fold(into, |into, (key, value)| into.insert(Header { key, value }))
}
