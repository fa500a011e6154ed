//! The gRPC services: protobuf in, protobuf out. Everything they decide, they ask the broker's other parts.

use tonic::Status;

mod admin;
mod convert;
mod delayed;
mod fetch;
mod groups;
mod log;
mod publish;
mod publish_hold;
mod publish_plan;
mod publish_stream;
mod subscribe;
mod topics;
mod verify;

#[cfg(test)]
pub(crate) use self::convert::pack;
pub(crate) use self::{
    admin::AdminService,
    convert::{Encoded, client_codec, joined_records, plain_batch, stored_codec, unpack},
    groups::GroupsService,
    log::LogService,
    topics::TopicsService,
};

/// How streams end when the broker stops. Nothing that was not answered has been written.
fn draining_status() -> Status {
    Status::unavailable("the broker is shutting down: connect again")
}
