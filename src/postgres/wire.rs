//! PostgreSQL's `tid`, `xid` and text as bytes, which the client library has no types for.

use std::error::Error;

use bytes::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::data::Version;

/// A row's place in its table: block and position. Six bytes, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tid(pub u32, pub u16);

/// A transaction number, as `xmin` has it (<https://www.postgresql.org/docs/current/ddl-system-columns.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid(pub u32);

/// The version of a row that has its table, its place and its writer in these columns.
pub fn version_of(row: &postgres::Row, [table, ctid, xmin]: [usize; 3]) -> Version {
    let (ctid, xmin): (Tid, Xid) = (row.get(ctid), row.get(xmin));
    Version { table: row.get(table), ctid: (ctid.0, ctid.1), xmin: xmin.0 }
}

/// Any value as the bytes that the server sent: of text, its UTF-8.
pub struct Raw<'a>(pub &'a [u8]);

impl<'a> FromSql<'a> for Tid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let bytes: [u8; 6] = raw.try_into()?;
        let [a, b, c, d, e, f] = bytes;
        Ok(Self(u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }
}

impl ToSql for Tid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        out.extend_from_slice(&self.1.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(u32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }
}

impl ToSql for Xid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TEXT | Type::JSON | Type::BYTEA)
    }
}
