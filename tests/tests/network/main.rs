//! Networks that lose, delay and break, between clients and a real broker.

mod connections;
mod consuming;
mod publishing;
