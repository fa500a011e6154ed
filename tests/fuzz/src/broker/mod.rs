//! Whole brokers: what they are asked, and what they find on disk.

mod data;
mod requests;
mod states;

pub use self::{requests::requests, states::states};
