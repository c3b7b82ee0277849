//! A record's headers in one piece of bytes, so that a record without any costs nothing, and with some no more than a copy.

/// The headers of a record, in order: each its name and its value, with their lengths in front (a missing value has -1).
///
/// The same bytes are part of the record's digest, so `SourceTable` makes them in SQL as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// What [`push_header`] has filled.
    #[must_use]
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Name and value of each.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let name = take(&mut rest)??;
            Some((std::str::from_utf8(name).unwrap_or_default(), take(&mut rest)?))
        })
    }
}

/// Appends a header.
pub fn push_header(bytes: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    for part in [Some(name.as_bytes()), value] {
        let length = part.map_or(-1, |part| i32::try_from(part.len()).unwrap_or(i32::MAX));
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part.unwrap_or_default());
    }
}

/// The next part, which may be missing; `None` at the end.
#[expect(clippy::option_option, reason = "an end is not a part that is missing")]
fn take<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
        *rest = behind;
        return Some(None);
    };
    let (part, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_out_as_they_went_in() {
        let given =
            [("trace", Some(&b"00-ab"[..])), ("empty", Some(b"")), ("missing", None), ("bytes", Some(b"\xff\0"))];
        let mut bytes = Vec::new();
        given.iter().for_each(|(name, value)| push_header(&mut bytes, name, *value));
        assert_eq!(Headers::of(&bytes).iter().collect::<Vec<_>>(), given);
        assert_eq!(Headers::default().iter().count(), 0);
        assert_eq!(Headers::of(&bytes[..7]).iter().count(), 0, "half a header is none");
    }
}
