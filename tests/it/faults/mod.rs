//! Connections cut, replies lost or late, servers that hang, die or refuse.

mod consume;
mod consume_each_step;
mod consume_servers;
mod hung_servers;
mod named_right;
mod open_transactions;
mod poolers;
mod produce;
mod produce_each_step;
mod proxy;
mod refusals;
mod servers_restarted;
mod slow;
