//! The example that `pg2ch config generate` prints and `scripts/install` puts in place.

/// A complete configuration file: every key with its default, commented out where it need not be set, and explained.
pub const EXAMPLE: &str = include_str!("example.toml");
