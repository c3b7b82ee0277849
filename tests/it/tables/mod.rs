//! Source and target tables as people have them, and as they change.

mod changed_sources;
mod changed_tables;
mod chosen_columns;
mod chosen_rows;
mod column_rules;
mod gentle;
mod headers;
mod outbox;
mod retyped_columns;
mod retyped_targets;
mod shapes;
mod soft_deletes;
mod unreadable;
